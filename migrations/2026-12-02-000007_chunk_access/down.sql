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
        ORDER BY v.model_id LIMIT 1) AS confidence_score,
       (SELECT jsonb_build_object(
                   'cpesh_completeness', q.completeness,
                   'vector_norm', real_array_norm(bytea_to_real_array(v.vector)),
                   'vector_dimension', octet_length(v.vector) / 4,
                   'text_length', char_length(c.text), 'concept_length', char_length(q.concept_text),
                   'soft_negatives_count', q.soft_count, 'hard_negatives_count', q.hard_count,
                   'total_negatives', q.soft_count + q.hard_count)
        FROM chunk_vectors v WHERE v.item = c.item AND v.kind = 'concept'
        ORDER BY v.model_id LIMIT 1) AS quality_metrics,
       to_jsonb(c.parent_cpe_ids) AS parent_cpe_ids,
       to_jsonb(c.child_cpe_ids) AS child_cpe_ids,
       NULL::timestamptz AS last_accessed_at,
       0 AS access_count,
       c.document_id,
       c.chunk_index AS sequence_index,
       c.metadata ->> 'episode_id' AS episode_id
FROM chunks c
LEFT JOIN chunk_cpesh p ON p.item = c.item,
LATERAL (SELECT coalesce(p.concept_text, c.text) AS concept_text,
                coalesce(cardinality(p.soft_negatives), 0) AS soft_count,
                coalesce(cardinality(p.hard_negatives), 0) AS hard_count,
                ((c.text <> '')::integer + (p.probe_question IS NOT NULL)::integer
                 + (p.expected_answer IS NOT NULL)::integer
                 + coalesce((p.soft_negatives <> '{}')::integer, 0)
                 + coalesce((p.hard_negatives <> '{}')::integer, 0)) / 5.0::float8 AS completeness) AS q;
COMMENT ON COLUMN cpe_entry.access_count IS 'Always 0: accesses are not counted.';
COMMENT ON COLUMN cpe_entry.last_accessed_at IS NULL;

DROP TABLE chunk_access;
