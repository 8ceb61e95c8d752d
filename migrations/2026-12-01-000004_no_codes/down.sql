CREATE OR REPLACE VIEW chunk_lines AS
SELECT
    c.dataset_source,
    c.seq,
    jsonb_strip_nulls(jsonb_build_object(
        -- A derived id comes out again, with the public name that only a derived id has.
        'id', nullif(c.id, c.cpe_id::text),
        'text', c.text,
        'document_id', c.document_id,
        'chunk_index', c.chunk_index,
        'source_document', c.source_document,
        'article_title', c.article_title,
        'article_index', c.article_index,
        'parent_cpe_ids', nullif(c.parent_cpe_ids, '{}'),
        'child_cpe_ids', nullif(c.child_cpe_ids, '{}'),
        'domain_code', c.domain_code,
        'task_code', c.task_code,
        'modifier_code', c.modifier_code,
        'concept_text', p.concept_text,
        'probe_question', p.probe_question,
        'expected_answer', p.expected_answer,
        'soft_negatives', nullif(p.soft_negatives, '{}'),
        'hard_negatives', nullif(p.hard_negatives, '{}'),
        'cpesh_source', nullif(p.source, 'client'),
        'cpesh_model', p.model,
        'cpesh_failure', p.failure,
        'cpesh_took_us', p.took_us
    ))
    -- Beside the others, so that its own nulls stay.
    || CASE WHEN c.metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', c.metadata) END AS line,
    c.created_at
FROM chunks c
LEFT JOIN chunk_cpesh p ON p.item = c.item;
CREATE OR REPLACE VIEW cpe_vectors AS
SELECT c.cpe_id,
       v.model_id,
       vector_text(read.concept) AS concept_vec,
       vector_text(coalesce(read.question, read.concept)) AS question_vec,
       vector_text(read.tmd_ingest) AS tmd_dense,
       vector_text(read.tmd_canonical) AS tmd_dense_canonical,
       vector_text(read.concept || read.tmd_ingest) AS fused_vec,
       real_array_norm(read.concept || read.tmd_ingest) AS fused_norm,
       vector_text(real_array_normalised(read.tmd_canonical || read.concept)) AS fused_vec_canonical
FROM chunks c
JOIN chunk_vectors v ON v.item = c.item AND v.kind = 'concept'
LEFT JOIN chunk_vectors q ON q.item = c.item AND q.model_id = v.model_id AND q.kind = 'question',
LATERAL (SELECT bytea_to_real_array(v.vector) AS concept,
                bytea_to_real_array(q.vector) AS question,
                tmd_16d_ingest(c.domain_code, c.task_code, c.modifier_code) AS tmd_ingest,
                tmd_16d_canonical(c.domain_code, c.task_code, c.modifier_code) AS tmd_canonical
         OFFSET 0) AS read;
COMMENT ON COLUMN cpe_vectors.tmd_dense IS 'Encoding B, as the old ingest service wrote it: tmd_16d_ingest().';
COMMENT ON COLUMN cpe_vectors.tmd_dense_canonical IS 'Encoding A: tmd_16d_canonical().';
COMMENT ON COLUMN cpe_vectors.fused_vec IS 'As the old ingest service wrote it: concept, then encoding B, not normalised.';
COMMENT ON COLUMN cpe_vectors.fused_norm IS 'Length of fused_vec.';
COMMENT ON COLUMN cpe_vectors.fused_vec_canonical IS 'As everything else expects it: encoding A, then concept, at unit length.';

-- Every row needs codes again.
SET LOCAL lnsp.writer = on;
ALTER TABLE chunks DROP CONSTRAINT chunks_codes_check;
UPDATE chunks SET domain_code = 0, task_code = 0, modifier_code = 0, tmd_source = 'local', tmd_failure = NULL
WHERE domain_code IS NULL;
ALTER TABLE chunks
    ALTER COLUMN domain_code SET NOT NULL,
    ALTER COLUMN task_code SET NOT NULL,
    ALTER COLUMN modifier_code SET NOT NULL,
    DROP CONSTRAINT chunks_tmd_source_check,
    ADD CONSTRAINT chunks_tmd_source_check CHECK (tmd_source IN ('client', 'llm', 'local', 'fallback'));
COMMENT ON COLUMN chunks.domain_code IS 'What the text is about, 0 to 15.';
COMMENT ON COLUMN chunks.task_code IS 'What the text is good for, 0 to 31.';
COMMENT ON COLUMN chunks.modifier_code IS 'How the text says it, 0 to 63.';
COMMENT ON COLUMN chunks.tmd_source IS 'Who gave the codes, or with tmd_failure hybrid the domain: client, llm, local, or fallback: the local classifier because the language model had no answer.';
COMMENT ON COLUMN chunks.domain_confidence IS 'How sure the source was, above 0 and at most 1; absent where it cannot say.';

CREATE OR REPLACE FUNCTION chunks_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    fixed text;
BEGIN
    IF current_setting('lnsp.writer', true) = 'on' OR NEW IS NOT DISTINCT FROM OLD THEN
        RETURN NEW;
    END IF;
    fixed := CASE
        WHEN NEW.text <> OLD.text THEN 'text'
        WHEN NEW.dataset_source <> OLD.dataset_source THEN 'dataset_source'
        WHEN NEW.id <> OLD.id THEN 'id'
        WHEN NEW.cpe_id <> OLD.cpe_id THEN 'cpe_id'
        WHEN NEW.item <> OLD.item THEN 'item'
        WHEN NEW.seq <> OLD.seq THEN 'seq'
        WHEN NEW.document_id IS DISTINCT FROM OLD.document_id THEN 'document_id'
        WHEN NEW.chunk_index <> OLD.chunk_index THEN 'chunk_index'
        WHEN NEW.source_document IS DISTINCT FROM OLD.source_document THEN 'source_document'
        WHEN NEW.article_title IS DISTINCT FROM OLD.article_title THEN 'article_title'
        WHEN NEW.article_index IS DISTINCT FROM OLD.article_index THEN 'article_index'
        WHEN NEW.content_hash <> OLD.content_hash THEN 'content_hash'
        WHEN NEW.details_hash <> OLD.details_hash OR OLD.details_hash IS NULL AND NEW.details_hash IS NOT NULL
            THEN 'details_hash'
        WHEN NEW.truncated <> OLD.truncated THEN 'truncated'
        WHEN NEW.unread IS DISTINCT FROM OLD.unread THEN 'unread'
        WHEN NEW.created_at <> OLD.created_at THEN 'created_at'
    END;
    IF fixed IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            '%s of a stored chunk cannot be changed by SQL, because its id, its hashes and its vector depend on it: send '
            'the chunk again with on_conflict=replace (lnsp ingest --on-conflict replace), or delete the row and send '
            'the new one', fixed);
    END IF;
    IF jsonb_typeof(NEW.metadata) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            'metadata of a chunk is a JSON object or NULL, received a JSON %s', jsonb_typeof(NEW.metadata));
    END IF;
    IF array_ndims(NEW.parent_cpe_ids) > 1 OR array_ndims(NEW.child_cpe_ids) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
            MESSAGE = 'parent_cpe_ids and child_cpe_ids of a chunk are plain lists, received an array of arrays';
    END IF;
    IF (NEW.metadata, NEW.parent_cpe_ids, NEW.child_cpe_ids)
       IS DISTINCT FROM (OLD.metadata, OLD.parent_cpe_ids, OLD.child_cpe_ids) THEN
        -- Without the hash, the fields are compared.
        NEW.details_hash := NULL;
    END IF;
    IF (NEW.domain_code, NEW.task_code, NEW.modifier_code)
       IS DISTINCT FROM (OLD.domain_code, OLD.task_code, OLD.modifier_code)
       AND (NEW.tmd_source, NEW.tmd_model, NEW.tmd_failure, NEW.tmd_took_us, NEW.domain_confidence,
            NEW.task_confidence, NEW.modifier_confidence)
       IS NOT DISTINCT FROM (OLD.tmd_source, OLD.tmd_model, OLD.tmd_failure, OLD.tmd_took_us,
            OLD.domain_confidence, OLD.task_confidence, OLD.modifier_confidence) THEN
        -- The old source did not give these codes.
        NEW.tmd_source := 'client';
        NEW.tmd_model := NULL;
        NEW.tmd_failure := NULL;
        NEW.tmd_took_us := NULL;
        NEW.domain_confidence := NULL;
        NEW.task_confidence := NULL;
        NEW.modifier_confidence := NULL;
    END IF;
    NEW.seq := change_clock_take(1);
    RETURN NEW;
END
$$;

-- The function runs with the rights of its owner. So it must find these tables, and none of a caller's.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION chunks_changed() SET search_path = %I, pg_temp', current_schema());
END
$$;
