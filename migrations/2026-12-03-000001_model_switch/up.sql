-- A store may have vectors of several models, and one of them is in use: change_clock.model_id. Another one is put to use
-- in one transaction, when no chunk lacks a vector of it.

ALTER TABLE change_clock ADD COLUMN history uuid;
COMMENT ON COLUMN change_clock.history IS 'Changes when vectors appear that have no change of their own: another model is put to use, or the store was restored from a backup. The search indexes then compare themselves with the rows. NULL before the first time.';

-- A standby writes no log of its own, and some hosted servers hide theirs.
CREATE FUNCTION store_history() RETURNS text
    LANGUAGE plpgsql
    STABLE
AS $$
DECLARE
    timeline text := '';
BEGIN
    BEGIN
        IF NOT pg_is_in_recovery() THEN
            timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;
    END;
    RETURN timeline || '/' || 'chunks'::regclass::oid
        || (SELECT coalesce('/' || history::text, '') FROM change_clock);
END
$$;
COMMENT ON FUNCTION store_history() IS 'What the numbers of the clock are compared by: the timeline of the server, another one after a failover; the identity of the table, another one after a restore; and change_clock.history.';

COMMENT ON COLUMN change_clock.model_id IS 'The model whose vectors are written and searched; decided before the first row, and in this row so that writers of two models cannot pass each other. lnsp model use puts another one here.';
ALTER TABLE models ADD COLUMN location text;
COMMENT ON COLUMN models.location IS 'The folder or name under which the model was last found; it is read there when no other is configured.';
COMMENT ON COLUMN models.created_at IS 'When the first service or command came with it.';

-- The old tables have one vector a chunk: that of the model in use.
CREATE OR REPLACE VIEW cpe_vectors AS
SELECT c.cpe_id,
       v.model_id,
       vector_text(read.concept) AS concept_vec,
       vector_text(coalesce(read.question, read.concept)) AS question_vec,
       vector_text(read.tmd_ingest) AS tmd_dense,
       vector_text(read.tmd_canonical) AS tmd_dense_canonical,
       vector_text(read.fused) AS fused_vec,
       real_array_norm(read.fused) AS fused_norm,
       vector_text(real_array_normalised(read.fused_canonical)) AS fused_vec_canonical
FROM chunks c
JOIN chunk_vectors v ON v.item = c.item AND v.kind = 'concept' AND v.model_id = (SELECT model_id FROM change_clock)
LEFT JOIN chunk_vectors q ON q.item = c.item AND q.model_id = v.model_id AND q.kind = 'question',
LATERAL (SELECT parts.*,
                -- An array and NULL are joined to the array alone.
                CASE WHEN parts.tmd_ingest IS NOT NULL THEN parts.concept || parts.tmd_ingest END AS fused,
                CASE WHEN parts.tmd_canonical IS NOT NULL THEN parts.tmd_canonical || parts.concept END AS fused_canonical
         FROM (SELECT bytea_to_real_array(v.vector) AS concept,
                      bytea_to_real_array(q.vector) AS question,
                      tmd_16d_ingest(c.domain_code, c.task_code, c.modifier_code) AS tmd_ingest,
                      tmd_16d_canonical(c.domain_code, c.task_code, c.modifier_code) AS tmd_canonical
               OFFSET 0) AS parts
         OFFSET 0) AS read;

CREATE OR REPLACE VIEW cpe_entry AS
SELECT c.cpe_id,
       c.text AS mission_text,
       c.text AS source_chunk,
       q.concept_text,
       coalesce(p.probe_question, '') AS probe_question,
       coalesce(p.expected_answer, '') AS expected_answer,
       coalesce(to_jsonb(p.soft_negatives), '[]') AS soft_negatives,
       coalesce(to_jsonb(p.hard_negatives), '[]') AS hard_negatives,
       c.domain_code,
       c.task_code,
       c.modifier_code,
       'factual'::text AS content_type,
       c.dataset_source,
       jsonb_build_object('article_title', c.article_title, 'article_index', c.article_index,
                          'chunk_index', c.chunk_index, 'source', c.source_document) AS chunk_position,
       '[]'::jsonb AS relations_text,
       NULL::real AS echo_score,
       'pending'::text AS validation_status,
       c.batch_id,
       c.created_at,
       tmd_lane_index(c.domain_code, c.task_code, c.modifier_code)::smallint AS tmd_bits,
       tmd_bits_canonical(c.domain_code, c.task_code, c.modifier_code) AS tmd_bits_canonical,
       'lane_' || c.domain_code AS tmd_lane,
       c.domain_code AS lane_index,
       tmd_lane_index(c.domain_code, c.task_code, c.modifier_code)::smallint AS lane_index_canonical,
       (SELECT cpe_confidence(q.completeness, real_array_norm(bytea_to_real_array(v.vector))::float8,
                              q.soft_count + q.hard_count, char_length(q.concept_text), char_length(c.text))
        FROM chunk_vectors v WHERE v.item = c.item AND v.kind = 'concept'
            AND v.model_id = (SELECT model_id FROM change_clock)) AS confidence_score,
       (SELECT jsonb_build_object(
                   'cpesh_completeness', q.completeness,
                   'vector_norm', real_array_norm(bytea_to_real_array(v.vector)),
                   'vector_dimension', octet_length(v.vector) / 4,
                   'text_length', char_length(c.text), 'concept_length', char_length(q.concept_text),
                   'soft_negatives_count', q.soft_count, 'hard_negatives_count', q.hard_count,
                   'total_negatives', q.soft_count + q.hard_count)
        FROM chunk_vectors v WHERE v.item = c.item AND v.kind = 'concept'
            AND v.model_id = (SELECT model_id FROM change_clock)) AS quality_metrics,
       to_jsonb(c.parent_cpe_ids) AS parent_cpe_ids,
       to_jsonb(c.child_cpe_ids) AS child_cpe_ids,
       a.last_at AS last_accessed_at,
       least(coalesce(a.count, 0), 2147483647)::integer AS access_count,
       c.document_id,
       c.chunk_index AS sequence_index,
       c.metadata ->> 'episode_id' AS episode_id
FROM chunks c
LEFT JOIN chunk_access a ON a.item = c.item
LEFT JOIN chunk_cpesh p ON p.item = c.item,
LATERAL (SELECT coalesce(p.concept_text, c.text) AS concept_text,
                coalesce(cardinality(p.soft_negatives), 0) AS soft_count,
                coalesce(cardinality(p.hard_negatives), 0) AS hard_count,
                ((c.text <> '')::integer + (p.probe_question IS NOT NULL)::integer
                 + (p.expected_answer IS NOT NULL)::integer
                 + coalesce((p.soft_negatives <> '{}')::integer, 0)
                 + coalesce((p.hard_negatives <> '{}')::integer, 0)) / 5.0::float8 AS completeness) AS q;
