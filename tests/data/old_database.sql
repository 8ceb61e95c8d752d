-- A database as the old service left it after all of its migrations: 2,000 rows of two datasets, with vectors as text
-- in the syntax of pgvector, which is not needed here.

CREATE TYPE content_type AS ENUM ('factual', 'math', 'instruction', 'narrative');
CREATE TYPE validation_status AS ENUM ('passed', 'failed', 'pending');
CREATE DOMAIN vector AS text;

CREATE TABLE cpe_entry (
    cpe_id            uuid PRIMARY KEY,
    mission_text      text NOT NULL,
    source_chunk      text NOT NULL,
    concept_text      text NOT NULL,
    probe_question    text NOT NULL,
    expected_answer   text NOT NULL,
    domain_code       smallint NOT NULL,
    task_code         smallint NOT NULL,
    modifier_code     smallint NOT NULL,
    content_type      content_type NOT NULL,
    dataset_source    text NOT NULL,
    chunk_position    jsonb NOT NULL,
    relations_text    jsonb,
    echo_score        real,
    validation_status validation_status NOT NULL DEFAULT 'pending',
    batch_id          uuid,
    created_at        timestamptz NOT NULL DEFAULT now(),
    tmd_bits          smallint NOT NULL,
    tmd_lane          text NOT NULL,
    lane_index        smallint NOT NULL CHECK (lane_index BETWEEN 0 AND 32767),
    last_accessed_at  timestamptz,
    access_count      integer DEFAULT 0,
    confidence_score  real,
    quality_metrics   jsonb DEFAULT '{}',
    parent_cpe_ids    jsonb DEFAULT '[]',
    child_cpe_ids     jsonb DEFAULT '[]',
    document_id       text NOT NULL,
    sequence_index    integer NOT NULL,
    episode_id        text,
    parent_cpe_id     uuid,
    child_cpe_id      uuid,
    last_accessed     timestamp,
    soft_negatives    jsonb,
    hard_negatives    jsonb
);
CREATE INDEX ON cpe_entry (created_at DESC);

CREATE TABLE cpe_vectors (
    cpe_id       uuid PRIMARY KEY REFERENCES cpe_entry ON DELETE CASCADE,
    fused_vec    vector NOT NULL,
    question_vec vector,
    concept_vec  vector,
    tmd_dense    vector,
    fused_norm   real
);

CREATE FUNCTION old_id(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN md5('old row ' || n)::uuid;

-- Rows 0, 64, 128, .. have the codes 0.0.0; rows 7, 207, 407, .. a domain that there is not. Every second row has CPESH
-- parts; the others are as the old service wrote them without. Ten rows have one time, as those of one batch.
INSERT INTO cpe_entry
SELECT old_id(n), text, text,
       CASE WHEN n % 2 = 0 THEN 'Concept of ' || n ELSE text END,
       CASE WHEN n % 2 = 0 THEN 'What is fact ' || n || '?' ELSE '' END,
       CASE WHEN n % 2 = 0 THEN 'Fact "' || n || '"' ELSE '' END,
       CASE WHEN n % 200 = 7 THEN 200 ELSE n % 16 END, n % 32, n % 64,
       'factual', CASE WHEN n % 4 = 3 THEN 'ontology' ELSE 'wikipedia_500k' END,
       CASE n % 3
           WHEN 0 THEN jsonb_build_object('article_title', 'Article ' || n / 20, 'article_index', n / 20,
                                          'chunk_index', n % 20, 'source', 'web_input')
           WHEN 1 THEN jsonb_build_object('index', n % 20, 'source', 'factoid-wiki')
           ELSE jsonb_build_object('doc_id', 'd' || n, 'start', n, 'end', n + 40)
       END,
       '[]', CASE WHEN n % 5 = 0 THEN 0.25 END, CASE WHEN n % 7 = 0 THEN 'passed' ELSE 'pending' END::validation_status,
       md5('batch ' || n / 10)::uuid, timestamptz '2025-10-12 03:04:05.5+00' + n / 10 * interval '1 s',
       CASE WHEN n % 200 = 7 THEN 0 ELSE ((n % 16) << 11) | ((n % 32) << 6) | (n % 64) END, 'lane_' || n % 16, n % 16,
       NULL, 0, CASE WHEN n % 2 = 0 THEN 0.91 ELSE 0.09 END, '{"text_length": 40}',
       CASE WHEN n > 0 THEN jsonb_build_array(old_id(n - 1)) ELSE '[]' END,
       CASE WHEN n < 1999 THEN jsonb_build_array(old_id(n + 1)) ELSE '[]' END,
       'document ' || n / 20, 0, CASE WHEN n % 10 = 0 THEN 'document_ep' || n END, NULL, NULL, NULL,
       CASE WHEN n % 2 = 0 THEN jsonb_build_array('soft ' || n, 'a, "b" {c}', E'\\') END,
       CASE WHEN n % 2 = 0 THEN '["The Beatles", "Mount Everest"]'::jsonb END
FROM generate_series(0, 1999) AS n,
     LATERAL (SELECT E'Fact ' || n || E' is "quoted" \u2014 \u9ed2\u3044\u7a74,\n\ton two lines.' AS text) AS t;

INSERT INTO cpe_vectors
SELECT cpe_id, v, v, v, '[1,0,0.5,-3e-05]', 1.5
FROM cpe_entry, LATERAL (SELECT '[' || string_agg((x / 7.0)::real::text, ',') || ']' AS v
                         FROM generate_series(1, 24) AS x) AS made;
