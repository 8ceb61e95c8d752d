DROP VIEW cpe_vectors_json;
DROP VIEW cpe_vectors;
DROP VIEW cpe_entry;
CREATE OR REPLACE VIEW chunk_lines AS
SELECT
    dataset_source,
    seq,
    jsonb_strip_nulls(jsonb_build_object(
        'id', nullif(id, cpe_id::text),
        'text', text,
        'document_id', document_id,
        'chunk_index', chunk_index,
        'source_document', source_document,
        'article_title', article_title,
        'article_index', article_index,
        'parent_cpe_ids', nullif(parent_cpe_ids, '{}'),
        'child_cpe_ids', nullif(child_cpe_ids, '{}'),
        'domain_code', domain_code,
        'task_code', task_code,
        'modifier_code', modifier_code
    ))
    || CASE WHEN metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', metadata) END AS line,
    created_at
FROM chunks;
DROP FUNCTION vector_text(real[]);
DROP TABLE chunk_cpesh;
CREATE VIEW cpe_entry AS
SELECT c.cpe_id,
       c.text AS mission_text,
       c.text AS source_chunk,
       c.text AS concept_text,
       ''::text AS probe_question,
       ''::text AS expected_answer,
       '[]'::jsonb AS soft_negatives,
       '[]'::jsonb AS hard_negatives,
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
       (SELECT cpe_confidence(m.completeness, m.vector_norm, 0, m.concept_length, m.text_length)
        FROM (SELECT (c.text <> '')::integer / 5.0::float8 AS completeness,
                     real_array_norm(bytea_to_real_array(v.vector))::float8 AS vector_norm,
                     char_length(c.text) AS concept_length, char_length(c.text) AS text_length
              FROM chunk_vectors v WHERE v.item = c.item AND v.kind = 'concept'
              ORDER BY v.model_id LIMIT 1) AS m) AS confidence_score,
       (SELECT jsonb_build_object(
                   'cpesh_completeness', (c.text <> '')::integer / 5.0::float8,
                   'vector_norm', real_array_norm(bytea_to_real_array(v.vector)),
                   'vector_dimension', octet_length(v.vector) / 4,
                   'text_length', char_length(c.text), 'concept_length', char_length(c.text),
                   'soft_negatives_count', 0, 'hard_negatives_count', 0, 'total_negatives', 0)
        FROM chunk_vectors v WHERE v.item = c.item AND v.kind = 'concept'
        ORDER BY v.model_id LIMIT 1) AS quality_metrics,
       to_jsonb(c.parent_cpe_ids) AS parent_cpe_ids,
       to_jsonb(c.child_cpe_ids) AS child_cpe_ids,
       NULL::timestamptz AS last_accessed_at,
       0 AS access_count,
       c.document_id,
       c.chunk_index AS sequence_index,
       c.metadata ->> 'episode_id' AS episode_id
FROM chunks c;
COMMENT ON VIEW cpe_entry IS 'The chunks in the shape of the old service''s table of this name, with its values for a chunk without extracted questions.';
COMMENT ON COLUMN cpe_entry.tmd_bits IS 'The layout the old ingest service wrote: tmd_lane_index().';
COMMENT ON COLUMN cpe_entry.tmd_bits_canonical IS 'The layout everything else reads: tmd_bits_canonical().';
COMMENT ON COLUMN cpe_entry.lane_index IS 'What the old ingest service wrote here: the domain code.';
COMMENT ON COLUMN cpe_entry.lane_index_canonical IS 'What everything else reads here: tmd_lane_index().';
COMMENT ON COLUMN cpe_entry.confidence_score IS 'cpe_confidence() of this row.';
COMMENT ON COLUMN cpe_entry.access_count IS 'Always 0: accesses are not counted.';

CREATE VIEW cpe_vectors AS
SELECT c.cpe_id,
       v.model_id,
       read.concept AS concept_vec,
       coalesce(read.question, read.concept) AS question_vec,
       read.tmd_ingest AS tmd_dense,
       read.tmd_canonical AS tmd_dense_canonical,
       read.concept || read.tmd_ingest AS fused_vec,
       real_array_norm(read.concept || read.tmd_ingest) AS fused_norm,
       real_array_normalised(read.tmd_canonical || read.concept) AS fused_vec_canonical
FROM chunks c
JOIN chunk_vectors v ON v.item = c.item AND v.kind = 'concept'
LEFT JOIN chunk_vectors q ON q.item = c.item AND q.model_id = v.model_id AND q.kind = 'question',
LATERAL (SELECT bytea_to_real_array(v.vector) AS concept,
                bytea_to_real_array(q.vector) AS question,
                tmd_16d_ingest(c.domain_code, c.task_code, c.modifier_code) AS tmd_ingest,
                tmd_16d_canonical(c.domain_code, c.task_code, c.modifier_code) AS tmd_canonical
         OFFSET 0) AS read;
COMMENT ON VIEW cpe_vectors IS 'The vectors in the shape of the old service''s table of this name, one row per chunk and model, with real[] for vector columns.';
COMMENT ON COLUMN cpe_vectors.question_vec IS 'The concept vector where there is no question vector, as the old service did.';
COMMENT ON COLUMN cpe_vectors.tmd_dense IS 'Encoding B, as the old ingest service wrote it: tmd_16d_ingest().';
COMMENT ON COLUMN cpe_vectors.tmd_dense_canonical IS 'Encoding A: tmd_16d_canonical().';
COMMENT ON COLUMN cpe_vectors.fused_vec IS 'As the old ingest service wrote it: concept, then encoding B, not normalised.';
COMMENT ON COLUMN cpe_vectors.fused_norm IS 'Length of fused_vec.';
COMMENT ON COLUMN cpe_vectors.fused_vec_canonical IS 'As everything else expects it: encoding A, then concept, at unit length.';
