-- Codes that the local classifier gave first, or that it shares with a language model, are told from others.

ALTER TABLE chunks DROP CONSTRAINT chunks_tmd_failure_check;
ALTER TABLE chunks ADD CONSTRAINT chunks_tmd_failure_check CHECK (
    CASE tmd_source
        WHEN 'fallback' THEN coalesce(tmd_failure, 'hybrid') NOT IN ('fast_first', 'hybrid')
        WHEN 'local' THEN coalesce(tmd_failure, 'hybrid') IN ('fast_first', 'hybrid')
        WHEN 'llm' THEN coalesce(tmd_failure, 'hybrid') = 'hybrid'
        ELSE tmd_failure IS NULL
    END
);
COMMENT ON COLUMN chunks.tmd_source IS 'Who gave the codes, or with tmd_failure hybrid the domain: client, llm, local, or fallback: the local classifier because the language model had no answer.';
COMMENT ON COLUMN chunks.tmd_model IS 'The language model, or the version of the local classifier; both where the two share the codes.';
COMMENT ON COLUMN chunks.tmd_failure IS 'Of fallback: why the language model had no answer, as in lnsp_llm_requests_total. Of local: fast_first or hybrid where the classifier was sure enough, so that no language model was asked. Of llm: hybrid where it gave the domain alone.';
