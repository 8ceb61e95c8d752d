-- The id that is derived for a chunk covers everything that says where its text comes from. What is kept beside that
-- (metadata, links) has a hash of its own: it can differ without a conflict. The rows of the version before are brought
-- up to date by the program, which knows the hashes, when it opens the store.

ALTER TABLE chunks
    ADD COLUMN details_hash bytea CONSTRAINT chunks_details_hash_check CHECK (octet_length(details_hash) = 32),
    ADD COLUMN unread real CONSTRAINT chunks_unread_check CHECK (unread > 0.5 AND unread <= 1);
COMMENT ON COLUMN chunks.content_hash IS 'blake3 of the text and of everything that says where it comes from; tells a repetition from a conflict.';
COMMENT ON COLUMN chunks.details_hash IS 'blake3 of metadata and links, which can differ in a repetition. Absent only in rows of the first version.';
COMMENT ON COLUMN chunks.unread IS 'The share of the characters of the text that the vocabulary of the model does not know, where it is above one half.';
COMMENT ON COLUMN chunks.created_at IS 'When the chunk arrived at the service: rows sorted by it are in the order in which they were sent.';

ALTER TABLE change_clock ADD COLUMN identity_version smallint NOT NULL DEFAULT 1;
COMMENT ON COLUMN change_clock.identity_version IS 'The version of derived ids and hashes that all rows have.';
UPDATE change_clock SET identity_version = 2
WHERE NOT EXISTS (SELECT FROM chunks) AND NOT EXISTS (SELECT FROM dead_letters);

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
COMMENT ON COLUMN chunk_lines.created_at IS 'As in chunks: lines sorted by it are in the order in which the chunks were sent.';
