-- Codes that the local classifier gave in place of a language model are told from those it was meant to give.

ALTER TABLE chunks DROP CONSTRAINT chunks_tmd_source_check;
ALTER TABLE chunks ADD COLUMN tmd_failure text;
ALTER TABLE chunks
    ADD CONSTRAINT chunks_tmd_source_check CHECK (tmd_source IN ('client', 'llm', 'local', 'fallback')),
    ADD CONSTRAINT chunks_tmd_failure_check CHECK ((tmd_source = 'fallback') = (tmd_failure IS NOT NULL));
COMMENT ON COLUMN chunks.tmd_source IS 'Who gave the codes: client, llm, local, or fallback: the local classifier because the language model had no answer.';
COMMENT ON COLUMN chunks.tmd_failure IS 'Why the language model had no answer, as in lnsp_llm_requests_total; present exactly when tmd_source is fallback.';
