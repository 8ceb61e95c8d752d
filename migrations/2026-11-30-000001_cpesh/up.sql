-- What is extracted from the text of a chunk: concept, question, answer, negatives. A table of its own, because most
-- chunks have none of it.

CREATE TABLE chunk_cpesh (
    item            bigint PRIMARY KEY REFERENCES chunks (item) ON DELETE CASCADE,
    concept_text    text   CHECK (concept_text <> ''),
    probe_question  text   CHECK (probe_question <> ''),
    expected_answer text   CHECK (expected_answer <> ''),
    soft_negatives  text[] NOT NULL DEFAULT '{}',
    hard_negatives  text[] NOT NULL DEFAULT '{}',
    source          text   NOT NULL CHECK (source IN ('client', 'llm'))
);
COMMENT ON TABLE chunk_cpesh IS 'The CPESH parts of the chunks that have any. What is absent was not extracted.';
COMMENT ON COLUMN chunk_cpesh.item IS 'The chunk.';
COMMENT ON COLUMN chunk_cpesh.concept_text IS 'A short statement of what the text says. It is embedded in place of the text.';
COMMENT ON COLUMN chunk_cpesh.probe_question IS 'A question that the concept answers.';
COMMENT ON COLUMN chunk_cpesh.expected_answer IS 'A short answer to the question.';
COMMENT ON COLUMN chunk_cpesh.soft_negatives IS 'Plausible wrong answers.';
COMMENT ON COLUMN chunk_cpesh.hard_negatives IS 'Answers from unrelated fields.';
COMMENT ON COLUMN chunk_cpesh.source IS 'Who extracted them: client or llm.';
COMMENT ON COLUMN chunks.text IS 'The text that was classified. It is also what was embedded, unless chunk_cpesh has a concept.';
COMMENT ON COLUMN chunks.details_hash IS 'blake3 of metadata, links and the CPESH parts of the client, which can differ in a repetition. Absent only in rows of the first version.';
COMMENT ON COLUMN chunk_vectors.kind IS 'concept: of the concept, or of the text itself where there is none; the one that is searched. question: of a question the text answers.';

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
        'hard_negatives', nullif(p.hard_negatives, '{}')
    ))
    -- Beside the others, so that its own nulls stay.
    || CASE WHEN c.metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', c.metadata) END AS line,
    c.created_at
FROM chunks c
LEFT JOIN chunk_cpesh p ON p.item = c.item;
COMMENT ON VIEW chunk_lines IS 'Each chunk as a line for POST /ingest: the same chunk, with the codes and the CPESH parts it got.';

-- The old service wrote vectors with pgvector, and a client without it reads them as text.

CREATE FUNCTION vector_text(vector real[]) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    -- The digits that read back as the same float, whatever the session has set.
    SET extra_float_digits = 1
    RETURN '[' || array_to_string(vector, ',') || ']';
COMMENT ON FUNCTION vector_text(real[]) IS 'A vector as pgvector writes it, for example [0.1,-2,3e-05]. The text can be cast to jsonb, and to vector where that extension is installed.';

DROP VIEW cpe_vectors;
DROP VIEW cpe_entry;

CREATE VIEW cpe_entry AS
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
COMMENT ON VIEW cpe_entry IS 'The chunks in the shape of the old service''s table of this name. A chunk without CPESH parts has the values that the old service gave it.';
COMMENT ON COLUMN cpe_entry.concept_text IS 'The text itself where there is no concept.';
COMMENT ON COLUMN cpe_entry.tmd_bits IS 'The layout the old ingest service wrote: tmd_lane_index().';
COMMENT ON COLUMN cpe_entry.tmd_bits_canonical IS 'The layout everything else reads: tmd_bits_canonical().';
COMMENT ON COLUMN cpe_entry.lane_index IS 'What the old ingest service wrote here: the domain code.';
COMMENT ON COLUMN cpe_entry.lane_index_canonical IS 'What everything else reads here: tmd_lane_index().';
COMMENT ON COLUMN cpe_entry.confidence_score IS 'cpe_confidence() of this row.';
COMMENT ON COLUMN cpe_entry.access_count IS 'Always 0: accesses are not counted.';

CREATE VIEW cpe_vectors AS
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
COMMENT ON VIEW cpe_vectors IS 'The vectors in the shape of the old service''s table of this name, one row per chunk and model. A vector is text as pgvector writes it: see vector_text().';
COMMENT ON COLUMN cpe_vectors.question_vec IS 'The concept vector where there is no question vector, as the old service did.';
COMMENT ON COLUMN cpe_vectors.tmd_dense IS 'Encoding B, as the old ingest service wrote it: tmd_16d_ingest().';
COMMENT ON COLUMN cpe_vectors.tmd_dense_canonical IS 'Encoding A: tmd_16d_canonical().';
COMMENT ON COLUMN cpe_vectors.fused_vec IS 'As the old ingest service wrote it: concept, then encoding B, not normalised.';
COMMENT ON COLUMN cpe_vectors.fused_norm IS 'Length of fused_vec.';
COMMENT ON COLUMN cpe_vectors.fused_vec_canonical IS 'As everything else expects it: encoding A, then concept, at unit length.';

CREATE VIEW cpe_vectors_json AS
SELECT cpe_id, fused_vec, question_vec, concept_vec, tmd_dense, fused_norm FROM cpe_vectors;
COMMENT ON VIEW cpe_vectors_json IS 'The table in which the old service kept vectors where pgvector was missing: the columns of cpe_vectors that it had.';
