DROP VIEW chunk_lines;
