ALTER TABLE chunks DROP CONSTRAINT chunks_tmd_failure_check;
ALTER TABLE chunks DROP CONSTRAINT chunks_tmd_source_check;
UPDATE chunks SET tmd_source = 'local' WHERE tmd_source = 'fallback';
ALTER TABLE chunks DROP COLUMN tmd_failure;
ALTER TABLE chunks ADD CONSTRAINT chunks_tmd_source_check CHECK (tmd_source IN ('client', 'llm', 'local'));
COMMENT ON COLUMN chunks.tmd_source IS 'Who gave the codes: client, llm or local.';
