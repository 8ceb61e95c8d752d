-- Rows whose codes a language model should have given are found without reading the table.
CREATE INDEX chunks_fallback ON chunks (seq) WHERE tmd_source = 'fallback';
