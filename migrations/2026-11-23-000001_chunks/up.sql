-- The tables. The code triple and the f32 bytes of a vector are the truth; every historic packing, encoding
-- and layout is a function or a view in the second half of this file.

CREATE TABLE models (
    model_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text        NOT NULL,
    recipe      text        NOT NULL,
    fingerprint text        NOT NULL UNIQUE,
    dims        integer     NOT NULL CHECK (dims > 0),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE models IS 'The embedding models whose vectors are in chunk_vectors.';
COMMENT ON COLUMN models.model_id IS 'Short name of the model inside this database.';
COMMENT ON COLUMN models.name IS 'Name of the model, for people.';
COMMENT ON COLUMN models.recipe IS 'How its output becomes a vector (pooling, projection, normalising): part of what makes vectors comparable.';
COMMENT ON COLUMN models.fingerprint IS 'Of weights and recipe; two models are the same exactly when this is equal.';
COMMENT ON COLUMN models.dims IS 'Number of floats in one of its vectors.';
COMMENT ON COLUMN models.created_at IS 'When the first service started with it.';

CREATE TABLE change_clock (
    single    boolean PRIMARY KEY DEFAULT true CHECK (single),
    seq       bigint  NOT NULL DEFAULT 0 CHECK (seq >= 0),
    next_item bigint  NOT NULL DEFAULT 0 CONSTRAINT change_clock_items_left CHECK (next_item BETWEEN 0 AND 4294967295),
    store_id  uuid    NOT NULL DEFAULT gen_random_uuid(),
    model_id  integer REFERENCES models (model_id)
);
COMMENT ON TABLE change_clock IS 'One row. A writing transaction locks it before it writes anything, so changes get their numbers in the order of their commits.';
COMMENT ON COLUMN change_clock.single IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN change_clock.seq IS 'Number of the last committed change; holes are legal.';
COMMENT ON COLUMN change_clock.next_item IS 'The next item number to give out. Item numbers are 32 bits in the search index, and are never used twice.';
COMMENT ON COLUMN change_clock.store_id IS 'Tells this store from any other, so that an index made for another one is noticed.';
COMMENT ON COLUMN change_clock.model_id IS 'The model whose vectors are written and searched; decided before the first row, and in this row so that writers of two models cannot pass each other.';
INSERT INTO change_clock DEFAULT VALUES;

CREATE TABLE chunks (
    dataset_source      text        NOT NULL,
    id                  text        NOT NULL,
    cpe_id              uuid        NOT NULL UNIQUE,
    item                bigint      NOT NULL UNIQUE CHECK (item BETWEEN 0 AND 4294967295),
    seq                 bigint      NOT NULL UNIQUE,
    content_hash        bytea       NOT NULL CHECK (octet_length(content_hash) = 32),
    text                text        NOT NULL,
    document_id         text,
    chunk_index         bigint      NOT NULL,
    source_document     text,
    article_title       text,
    article_index       bigint,
    parent_cpe_ids      text[]      NOT NULL DEFAULT '{}',
    child_cpe_ids       text[]      NOT NULL DEFAULT '{}',
    batch_id            text,
    metadata            jsonb,
    domain_code         smallint    NOT NULL CHECK (domain_code BETWEEN 0 AND 15),
    task_code           smallint    NOT NULL CHECK (task_code BETWEEN 0 AND 31),
    modifier_code       smallint    NOT NULL CHECK (modifier_code BETWEEN 0 AND 63),
    tmd_source          text        NOT NULL CHECK (tmd_source IN ('client', 'llm', 'local')),
    tmd_model           text,
    domain_confidence   real,
    task_confidence     real,
    modifier_confidence real,
    tmd_took_us         bigint,
    truncated           boolean     NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_source, id)
);
-- The document leads: a look-up by key must find no other index that also starts with dataset_source.
CREATE INDEX chunks_by_place ON chunks (document_id, dataset_source, chunk_index);
CREATE INDEX chunks_by_tmd ON chunks (domain_code, task_code, modifier_code);
COMMENT ON TABLE chunks IS 'One row per acknowledged chunk: what the client sent, and the codes it got.';
COMMENT ON COLUMN chunks.dataset_source IS 'The dataset; the same id in another dataset is another chunk.';
COMMENT ON COLUMN chunks.id IS 'The client''s own id, or one derived from content and position.';
COMMENT ON COLUMN chunks.cpe_id IS 'Public name of the chunk (also global_id in answers), a function of dataset_source and id.';
COMMENT ON COLUMN chunks.item IS 'Its number in the search index.';
COMMENT ON COLUMN chunks.seq IS 'Number of the last change of this row, from change_clock.';
COMMENT ON COLUMN chunks.content_hash IS 'blake3 of everything the client said, apart from batch_id; tells a repetition from a conflict.';
COMMENT ON COLUMN chunks.text IS 'The text that was classified and embedded.';
COMMENT ON COLUMN chunks.document_id IS 'The document it belongs to, where the client named one.';
COMMENT ON COLUMN chunks.chunk_index IS 'Its place in the document.';
COMMENT ON COLUMN chunks.source_document IS 'Free text of the client, for example the name of a crawl.';
COMMENT ON COLUMN chunks.article_title IS 'Free text of the client.';
COMMENT ON COLUMN chunks.article_index IS 'Free number of the client.';
COMMENT ON COLUMN chunks.parent_cpe_ids IS 'Links the client gave; neighbours by chunk_index are not stored.';
COMMENT ON COLUMN chunks.child_cpe_ids IS 'Links the client gave; neighbours by chunk_index are not stored.';
COMMENT ON COLUMN chunks.batch_id IS 'The request it first came with. Not part of its content.';
COMMENT ON COLUMN chunks.metadata IS 'Whatever else the client wanted kept.';
COMMENT ON COLUMN chunks.domain_code IS 'What the text is about, 0 to 15.';
COMMENT ON COLUMN chunks.task_code IS 'What the text is good for, 0 to 31.';
COMMENT ON COLUMN chunks.modifier_code IS 'How the text says it, 0 to 63.';
COMMENT ON COLUMN chunks.tmd_source IS 'Who gave the codes: client, llm or local.';
COMMENT ON COLUMN chunks.tmd_model IS 'The language model, or the version of the local classifier.';
COMMENT ON COLUMN chunks.domain_confidence IS 'How sure the source was, above 0 and at most 1; absent where it cannot say.';
COMMENT ON COLUMN chunks.task_confidence IS 'See domain_confidence.';
COMMENT ON COLUMN chunks.modifier_confidence IS 'See domain_confidence.';
COMMENT ON COLUMN chunks.tmd_took_us IS 'Microseconds the source took; absent where none was asked.';
COMMENT ON COLUMN chunks.truncated IS 'The text was longer than the model reads; the vector stands for its first part.';
COMMENT ON COLUMN chunks.created_at IS 'Start of the transaction that stored it.';

CREATE TABLE chunk_vectors (
    item     bigint  NOT NULL REFERENCES chunks (item) ON DELETE CASCADE,
    model_id integer NOT NULL REFERENCES models (model_id),
    kind     text    NOT NULL CHECK (kind IN ('concept', 'question')),
    vector   bytea   NOT NULL CHECK (octet_length(vector) > 0 AND octet_length(vector) % 4 = 0),
    PRIMARY KEY (item, model_id, kind)
);
-- Floats do not compress: trying to costs half of the insert rate.
ALTER TABLE chunk_vectors ALTER COLUMN vector SET STORAGE EXTERNAL;
COMMENT ON TABLE chunk_vectors IS 'The vectors of the chunks, per model.';
COMMENT ON COLUMN chunk_vectors.item IS 'The chunk.';
COMMENT ON COLUMN chunk_vectors.model_id IS 'The model that made the vector.';
COMMENT ON COLUMN chunk_vectors.kind IS 'concept: of the text itself, the one that is searched. question: of a question the text answers.';
COMMENT ON COLUMN chunk_vectors.vector IS 'Little-endian f32, dims of them, unit length. Readable in the view chunk_vectors_real.';

CREATE TABLE tombstones (
    seq        bigint      PRIMARY KEY,
    item       bigint      NOT NULL,
    cpe_id     uuid        NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tombstones IS 'One row per deleted chunk, so that whoever follows the clock hears of it.';
COMMENT ON COLUMN tombstones.seq IS 'Number of the deletion, from change_clock.';
COMMENT ON COLUMN tombstones.item IS 'The number the chunk had in the search index.';
COMMENT ON COLUMN tombstones.cpe_id IS 'The public name the chunk had.';
COMMENT ON COLUMN tombstones.deleted_at IS 'Start of the transaction that deleted it.';

-- Reading vectors. Bodies are parsed here and now, so none of them depends on anybody's search_path.

CREATE FUNCTION bytea_to_real_array(packed bytea) RETURNS real[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    -- The concatenation unpacks the value once instead of once per byte; OFFSET 0 keeps it that way.
    SELECT ARRAY(
        SELECT (CASE WHEN bits < 0 THEN -1.0::float8 ELSE 1.0::float8 END
                * CASE (bits >> 23) & 255
                      WHEN 0 THEN (bits & 8388607) * 1.401298464324817e-45::float8
                      WHEN 255 THEN CASE bits & 8388607 WHEN 0 THEN 'Infinity'::float8 ELSE 'NaN'::float8 END
                      ELSE (8388608 + (bits & 8388607)) * power(2::float8, ((bits >> 23) & 255) - 150)
                  END)::real
        FROM (SELECT get_byte(bytes, at) | (get_byte(bytes, at + 1) << 8) | (get_byte(bytes, at + 2) << 16)
                         | (get_byte(bytes, at + 3) << 24) AS bits
              FROM generate_series(0, octet_length(bytes) - 4, 4) AS at OFFSET 0) AS word)
    FROM (SELECT packed || ''::bytea AS bytes OFFSET 0) AS unpacked;
END;
COMMENT ON FUNCTION bytea_to_real_array(bytea) IS 'Little-endian f32 bytes as real[], bit for bit.';

CREATE FUNCTION real_array_norm(vector real[]) RETURNS real
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    -- In double precision, because PostgreSQL makes an error of a product that underflows.
    SELECT sqrt(coalesce(sum(x::float8 * x), 0))::real FROM unnest(vector) AS x;
END;
COMMENT ON FUNCTION real_array_norm(real[]) IS 'Length of a vector.';

CREATE FUNCTION real_array_normalised(vector real[]) RETURNS real[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN norm > 1e-12 THEN ARRAY(SELECT x / norm FROM unnest(vector) AS x) ELSE vector END
    FROM (SELECT real_array_norm(vector) AS norm OFFSET 0) AS length;
END;
COMMENT ON FUNCTION real_array_normalised(real[]) IS 'The vector at unit length; a zero vector stays as it is.';

CREATE VIEW chunk_vectors_real AS
SELECT item, model_id, kind, bytea_to_real_array(vector) AS vector FROM chunk_vectors;
COMMENT ON VIEW chunk_vectors_real IS 'chunk_vectors with readable vectors.';
COMMENT ON COLUMN chunk_vectors_real.item IS 'See chunk_vectors.';
COMMENT ON COLUMN chunk_vectors_real.model_id IS 'See chunk_vectors.';
COMMENT ON COLUMN chunk_vectors_real.kind IS 'See chunk_vectors.';
COMMENT ON COLUMN chunk_vectors_real.vector IS 'The same floats as real[].';

-- The historic forms of a code triple.

CREATE FUNCTION tmd_lane_index(domain integer, task integer, modifier integer) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (domain << 11) | (task << 6) | modifier;
COMMENT ON FUNCTION tmd_lane_index(integer, integer, integer) IS 'The 15-bit layout, 0 to 32767. The old ingest service stored this number as its tmd_bits.';

CREATE FUNCTION tmd_bits_canonical(domain integer, task integer, modifier integer) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (domain << 12) | (task << 7) | (modifier << 1);
COMMENT ON FUNCTION tmd_bits_canonical(integer, integer, integer) IS 'The 16-bit layout with a spare lowest bit, 0 to 65534.';

CREATE FUNCTION tmd_16d_ingest(domain integer, task integer, modifier integer) RETURNS real[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg(((code >> bit) & 1)::real ORDER BY axis, bit) || 0::real
    FROM (VALUES (1, domain, 4), (2, task, 5), (3, modifier, 6)) AS codes (axis, code, width),
         LATERAL generate_series(0, width - 1) AS bit;
END;
COMMENT ON FUNCTION tmd_16d_ingest(integer, integer, integer) IS 'Encoding B, of the old ingest service: one float per bit, lowest first (4 domain, 5 task, 6 modifier), then a zero; not normalised.';

CREATE FUNCTION tmd_projection() RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '{
        {0.0382682234, 0.473936439, -0.137745917, -1.38933444, 2.52011871, -1.00639093, 1.85681605, -2.50237775, 0.148336098, -0.0861233771, 2.12161827, 0.515017927, -0.532863557, 1.2378099, 0.205361485},
        {1.81297553, -0.217336535, 0.0939234272, -0.133796602, -1.13466418, 0.847784579, 0.677111089, 0.872689009, -0.336667657, 1.01786518, 1.10617161, -0.0386043936, -0.817302227, -0.158185437, -1.49902475},
        {-1.4663682, 0.73201108, -1.72037482, -1.85562027, 0.4325625, 0.0724446774, -1.94375324, 0.838151753, -0.0120152114, 1.16688454, -0.293995619, 0.351570398, -1.58589244, -0.473843604, 1.11178994},
        {-0.933287561, 0.836550057, 0.47657755, -0.887662947, 1.89127278, 0.613764346, 0.703554988, 0.840877831, -2.01096559, 0.135003269, 0.8430264, -0.0390745103, 0.928937256, 0.117265515, 0.387944162},
        {0.45761165, 0.235439613, -0.542370319, 1.2330929, 0.209826738, 0.0606138445, 0.0599516518, -0.523825049, -1.40253294, -1.61152589, -0.195312664, -0.972197294, 0.471644461, 0.504323125, 1.05846035},
        {-0.0950831175, -0.0539721325, 0.450509876, -2.65452528, -1.65034497, 0.371505886, 0.302461147, -2.66104126, 0.0345313251, -0.427499622, -0.375497341, 0.325820506, -0.0675324276, 0.761494517, -0.553169787},
        {-0.723177671, -0.162944362, 0.159184277, -0.875577331, -1.00155568, -0.0851428807, 0.255553305, 0.382883519, -0.256552041, 0.183737487, 1.43717813, -0.102737695, 0.541868985, -0.19974786, -0.205217451},
        {-0.335033834, 0.165702179, -0.00508440286, 0.150503308, 0.12085028, -0.339297056, -0.468271405, -0.91131568, -0.849631667, 1.17060554, 0.833417654, -1.52071297, 0.835004807, 0.241698161, -0.357263356},
        {-1.10041428, 2.08469892, -1.32455337, -0.799416125, -0.0945224538, -1.87977123, -1.22104406, 1.06106699, -0.245929018, 1.81656063, 0.438263237, -0.670624077, 1.00171733, 0.327595472, 0.379946291},
        {-0.661465645, -0.753263891, 0.371587753, -0.146716163, 0.693757236, -0.977667511, -0.521398723, -1.16779375, -0.523999155, -0.891582906, -0.893268108, 0.611300945, 0.311759084, 0.309285015, 1.79529881},
        {0.741855919, 0.610340834, -0.469639182, -1.66037309, 0.600104094, -0.292987794, -1.71899772, -1.05333102, 1.11063612, -1.05614209, -0.194057524, 0.0786373392, -1.30517352, 0.457425237, -0.400878698},
        {0.545831621, 1.69915211, 1.51606882, 0.19597955, 0.816988349, -0.146965891, -1.25572312, -0.529826522, 0.213362426, 2.41420197, 2.00715542, -1.82157767, 0.426768005, -0.365440339, 0.864912808},
        {-1.05938613, 0.895546556, 0.15157114, -0.356895924, -0.245926976, 0.236812577, -0.962325573, 1.19754887, 0.631123304, 0.755123317, 0.936541021, -0.164000422, 0.0503139645, 1.81116855, -1.71007109},
        {-0.437852025, 2.32087064, 0.200918853, 0.312035441, -1.5198667, 0.20746243, -0.629014552, -1.03856254, -1.68408453, -1.51015079, 1.48650932, 1.19598711, 1.22446609, -0.663761556, -0.429379851},
        {-0.00239560846, 0.979780555, -0.472416848, 1.37515604, 0.647445381, 0.991791427, 0.725459695, 0.823273301, -0.301156461, 0.288023859, -0.962797821, 0.359674931, 0.372418731, 1.03666115, -0.0450237505},
        {1.37963295, 0.167666614, -0.548076928, 1.26494718, 0.923921287, -1.76754415, -0.417717099, 0.149248973, -0.471945345, -1.30518353, 0.00844380539, 1.11199057, 0.866754651, -1.64398563, 1.2257421}
    }'::real[];
COMMENT ON FUNCTION tmd_projection() IS 'The fixed 16 x 15 matrix of encoding A; old vectors depend on every bit of it.';

CREATE FUNCTION tmd_16d_canonical(domain integer, task integer, modifier integer) RETURNS real[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT real_array_normalised(array_agg(x ORDER BY dimension))
    FROM (SELECT tmd_projection() AS weights, tmd_lane_index(domain, task, modifier) AS code OFFSET 0) AS given,
         LATERAL generate_series(1, 16) AS dimension,
         LATERAL (SELECT coalesce(sum(weights[dimension][bit] ORDER BY bit), 0::real) AS x
                  FROM generate_series(1, 15) AS bit
                  WHERE (code >> (15 - bit)) & 1 = 1) AS projected;
END;
COMMENT ON FUNCTION tmd_16d_canonical(integer, integer, integer) IS 'Encoding A: the 15 bits, highest first, through tmd_projection(), at unit length; 0.0.0 gives the zero vector.';

CREATE FUNCTION cpe_confidence(completeness double precision, vector_norm double precision, negatives integer,
                               concept_length integer, text_length integer) RETURNS real
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN least(1, 0.4 * completeness
                    + 0.1 * least(vector_norm / 10, 1)
                    + 0.3 * least(negatives / 5.0, 1)
                    + CASE WHEN text_length = 0 THEN 0
                           WHEN concept_length::float8 / text_length BETWEEN 0.1 AND 0.5 THEN 0.2
                           WHEN concept_length::float8 / text_length BETWEEN 0.05 AND 0.8 THEN 0.1
                           ELSE 0 END)::real;
COMMENT ON FUNCTION cpe_confidence(double precision, double precision, integer, integer, integer) IS 'The old service''s confidence_score. Without extracted questions and negatives it is 0.09 for every chunk and says nothing.';

-- The two tables of the old service, for readers that know them.

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
