-- Chunks that were taken and could not be stored, kept so that they can be sent again.

CREATE TABLE dead_letters (
    dataset_source  text        NOT NULL,
    id              text        NOT NULL,
    letter          bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    content_hash    bytea       NOT NULL CHECK (octet_length(content_hash) = 32),
    stage           text        NOT NULL,
    cause           text        NOT NULL,
    message         text        NOT NULL,
    attempts        bigint      NOT NULL CHECK (attempts > 0),
    times           bigint      NOT NULL DEFAULT 1 CHECK (times > 0),
    input           bytea       NOT NULL,
    batch_id        text,
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    PRIMARY KEY (dataset_source, id)
);
COMMENT ON TABLE dead_letters IS 'One row per chunk on which the service failed, written before its client was told. It goes away when the chunk is stored.';
COMMENT ON COLUMN dead_letters.dataset_source IS 'The dataset, as in chunks.';
COMMENT ON COLUMN dead_letters.id IS 'The client''s own id, or the derived one, as in chunks.';
COMMENT ON COLUMN dead_letters.letter IS 'Rises with the first failures: pages are read by it.';
COMMENT ON COLUMN dead_letters.content_hash IS 'As in chunks: the letter goes away when a chunk with this key and this content is stored.';
COMMENT ON COLUMN dead_letters.stage IS 'Where it failed last: tmd, embed or write.';
COMMENT ON COLUMN dead_letters.cause IS 'The code of the last error, as the client was told.';
COMMENT ON COLUMN dead_letters.message IS 'The sentence of the last error.';
COMMENT ON COLUMN dead_letters.attempts IS 'Tries in the hands of a stage, over all times it was sent; poison has three each time.';
COMMENT ON COLUMN dead_letters.times IS 'How often it was sent and rejected.';
COMMENT ON COLUMN dead_letters.input IS 'The JSON object that, sent again, makes the same chunk; UTF-8. As bytes, because PostgreSQL''s own types do not take every text.';
COMMENT ON COLUMN dead_letters.batch_id IS 'The request it last came with. Not part of its content.';
COMMENT ON COLUMN dead_letters.first_failed_at IS 'When it was first rejected, by the clock of the service.';
COMMENT ON COLUMN dead_letters.last_failed_at IS 'When it was last rejected, by the clock of the service.';
