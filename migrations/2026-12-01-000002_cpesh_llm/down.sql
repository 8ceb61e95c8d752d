DROP TRIGGER clock_first ON chunk_vectors;
CREATE TRIGGER clock_first BEFORE UPDATE ON chunk_vectors
    FOR EACH STATEMENT EXECUTE FUNCTION change_clock_lock();
DROP TRIGGER inserted ON chunk_vectors;

CREATE OR REPLACE FUNCTION chunk_vectors_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    wanted integer;
BEGIN
    IF current_setting('lnsp.writer', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF (NEW.item, NEW.model_id, NEW.kind) IS DISTINCT FROM (OLD.item, OLD.model_id, OLD.kind) THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
            MESSAGE = 'item, model_id and kind of a stored vector cannot be changed: insert another vector instead';
    END IF;
    SELECT 4 * dims INTO wanted FROM models WHERE model_id = NEW.model_id;
    IF octet_length(NEW.vector) <> wanted THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            'the vector of item %s has the wrong length: expected %s bytes (%s little-endian f32), received %s',
            NEW.item, wanted, wanted / 4, octet_length(NEW.vector));
    END IF;
    IF NEW.kind = 'concept' AND NEW.vector <> OLD.vector AND NEW.model_id = (SELECT model_id FROM change_clock) THEN
        PERFORM chunk_renumber(NEW.item);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION chunk_vectors_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    IF OLD.kind = 'concept' AND EXISTS (SELECT FROM chunks WHERE item = OLD.item)
       AND OLD.model_id = (SELECT model_id FROM change_clock) THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            'the vector of item %s cannot be deleted alone, because a stored chunk is found by it: delete the row in '
            'chunks, and its vectors go with it', OLD.item);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION chunk_cpesh_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    -- A chunk that is deleted takes its parts along. OLD is NULL in an INSERT, and NEW in a DELETE.
    IF current_setting('lnsp.writer', true) = 'on' OR OLD IS NOT DISTINCT FROM NEW
       OR NOT EXISTS (SELECT FROM chunks WHERE item = coalesce(NEW.item, OLD.item)) THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' AND (array_ndims(NEW.soft_negatives) > 1 OR array_ndims(NEW.hard_negatives) > 1
        OR array_position(NEW.soft_negatives, NULL) > 0 OR array_position(NEW.hard_negatives, NULL) > 0) THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
            MESSAGE = 'soft_negatives and hard_negatives are plain lists without NULL';
    END IF;
    IF NEW.concept_text IS DISTINCT FROM OLD.concept_text OR NEW.item <> OLD.item THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE =
            'concept_text of a stored chunk cannot be changed by SQL, because its vector depends on it: send the chunk '
            'again with on_conflict=replace (lnsp ingest --on-conflict replace)';
    END IF;
    PERFORM chunk_renumber(coalesce(NEW.item, OLD.item));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chunk_vectors_deleted() IS 'The vector that is searched goes with its chunk, not alone.';
COMMENT ON FUNCTION chunk_cpesh_changed() IS 'CPESH parts that are changed by SQL are a change of their chunk.';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['chunk_vectors_changed()', 'chunk_vectors_deleted()', 'chunk_cpesh_changed()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END
$$;

DROP FUNCTION question_forget(bigint);
DROP FUNCTION question_is_gone(bigint);
DROP TABLE question_tombstones;
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
-- An extraction that failed left no parts.
SET LOCAL lnsp.writer = on;
DELETE FROM chunk_cpesh WHERE failure IS NOT NULL;
ALTER TABLE chunk_cpesh DROP COLUMN model, DROP COLUMN took_us, DROP COLUMN failure;
COMMENT ON TABLE chunk_cpesh IS 'The CPESH parts of the chunks that have any. What is absent was not extracted.';
