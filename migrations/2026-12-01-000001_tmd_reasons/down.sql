ALTER TABLE chunks DROP CONSTRAINT chunks_tmd_failure_check;
UPDATE chunks SET tmd_failure = NULL WHERE tmd_failure IN ('fast_first', 'hybrid');
ALTER TABLE chunks ADD CONSTRAINT chunks_tmd_failure_check CHECK ((tmd_source = 'fallback') = (tmd_failure IS NOT NULL));
COMMENT ON COLUMN chunks.tmd_source IS 'Who gave the codes: client, llm, local, or fallback: the local classifier because the language model had no answer.';
COMMENT ON COLUMN chunks.tmd_model IS 'The language model, or the version of the local classifier.';
COMMENT ON COLUMN chunks.tmd_failure IS 'Why the language model had no answer, as in lnsp_llm_requests_total; present exactly when tmd_source is fallback.';
