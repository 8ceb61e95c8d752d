-- Chunks as the lines of an upload: what goes into another store, to be embedded there by another model.

CREATE VIEW chunk_lines AS
SELECT
    dataset_source,
    seq,
    jsonb_strip_nulls(jsonb_build_object(
        -- A derived id comes out again, with the public name that only a derived id has.
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
    -- Beside the others, so that its own nulls stay.
    || CASE WHEN metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', metadata) END AS line
FROM chunks;
COMMENT ON VIEW chunk_lines IS 'Each chunk as a line for POST /ingest: the same chunk, with the codes it got.';
COMMENT ON COLUMN chunk_lines.dataset_source IS 'The dataset, a parameter of the upload.';
COMMENT ON COLUMN chunk_lines.seq IS 'As in chunks.';
COMMENT ON COLUMN chunk_lines.line IS 'The JSON object.';
