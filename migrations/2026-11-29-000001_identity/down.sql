DROP VIEW chunk_lines;
CREATE VIEW chunk_lines AS
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
    || CASE WHEN metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', metadata) END AS line
FROM chunks;
ALTER TABLE change_clock DROP COLUMN identity_version;
ALTER TABLE chunks DROP COLUMN unread, DROP COLUMN details_hash;
