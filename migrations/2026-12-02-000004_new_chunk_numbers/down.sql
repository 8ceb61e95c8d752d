DROP FUNCTION new_chunk_numbers(text[], text[], integer);
