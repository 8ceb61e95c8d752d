-- CPESH parts that a language model extracted, with where they come from, and the vectors of questions, which a search
-- index of their own follows.

ALTER TABLE chunk_cpesh
    ADD COLUMN model   text,
    ADD COLUMN took_us bigint,
    ADD COLUMN failure text,
    ADD CONSTRAINT chunk_cpesh_failure_has_no_parts CHECK (
        failure IS NULL OR (concept_text IS NULL AND probe_question IS NULL AND expected_answer IS NULL
                            AND soft_negatives = '{}' AND hard_negatives = '{}')),
    ADD CONSTRAINT chunk_cpesh_client_has_no_model CHECK (source = 'llm' OR (model IS NULL AND failure IS NULL));
COMMENT ON TABLE chunk_cpesh IS 'The CPESH parts of the chunks that have any, and the failures of their extraction. What is absent was not extracted.';
COMMENT ON COLUMN chunk_cpesh.model IS 'The language model that was asked. Absent for parts of a client.';
COMMENT ON COLUMN chunk_cpesh.took_us IS 'Microseconds the language model took. The same call may have given the codes.';
COMMENT ON COLUMN chunk_cpesh.failure IS 'Why the language model gave no parts: then there are none.';
COMMENT ON COLUMN chunk_vectors.kind IS 'concept: of the concept, or of the text itself where there is none. question: of chunk_cpesh.probe_question. A search compares with either, or with both.';

-- What a language model extracted comes out as such.
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
        'hard_negatives', nullif(p.hard_negatives, '{}'),
        'cpesh_source', nullif(p.source, 'client'),
        'cpesh_model', p.model,
        'cpesh_failure', p.failure,
        'cpesh_took_us', p.took_us
    ))
    -- Beside the others, so that its own nulls stay.
    || CASE WHEN c.metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', c.metadata) END AS line,
    c.created_at
FROM chunks c
LEFT JOIN chunk_cpesh p ON p.item = c.item;

CREATE TABLE question_tombstones (
    seq  bigint PRIMARY KEY,
    item bigint NOT NULL
);
COMMENT ON TABLE question_tombstones IS 'The changes by which a chunk that stays lost its question vector, so that everything that follows the clock hears of it.';
COMMENT ON COLUMN question_tombstones.seq IS 'Number of the change, from change_clock.';
COMMENT ON COLUMN question_tombstones.item IS 'The chunk.';
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON question_tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION truncate_refused();

CREATE FUNCTION question_is_gone(changed bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    INSERT INTO question_tombstones (seq, item) SELECT seq, item FROM chunks WHERE item = changed;
END
$$;
COMMENT ON FUNCTION question_is_gone(bigint) IS 'The last change of this chunk took its question vector away.';
REVOKE EXECUTE ON FUNCTION question_is_gone(bigint) FROM PUBLIC;

CREATE FUNCTION question_forget(changed bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET lnsp.writer = on
AS $$
BEGIN
    DELETE FROM chunk_vectors WHERE item = changed AND kind = 'question';
    IF FOUND THEN
        PERFORM question_is_gone(changed);
    END IF;
END
$$;
COMMENT ON FUNCTION question_forget(bigint) IS 'After a change by SQL of the question of this chunk: the stored vector is that of another question.';
REVOKE EXECUTE ON FUNCTION question_forget(bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION chunk_vectors_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    wanted integer;
BEGIN
    IF current_setting('lnsp.writer', true) = 'on' THEN
        RETURN NULL;
    END IF;
    -- OLD is NULL in an INSERT.
    IF TG_OP = 'UPDATE' AND (NEW.item, NEW.model_id, NEW.kind) IS DISTINCT FROM (OLD.item, OLD.model_id, OLD.kind) THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
            MESSAGE = 'item, model_id and kind of a stored vector cannot be changed: insert another vector instead';
    END IF;
    SELECT 4 * dims INTO wanted FROM models WHERE model_id = NEW.model_id;
    IF octet_length(NEW.vector) <> wanted THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            'the vector of item %s has the wrong length: expected %s bytes (%s little-endian f32), received %s',
            NEW.item, wanted, wanted / 4, octet_length(NEW.vector));
    END IF;
    IF NEW.vector IS DISTINCT FROM OLD.vector AND NEW.model_id = (SELECT model_id FROM change_clock) THEN
        PERFORM chunk_renumber(NEW.item);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION chunk_vectors_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    IF current_setting('lnsp.writer', true) = 'on' OR NOT EXISTS (SELECT FROM chunks WHERE item = OLD.item)
       OR OLD.model_id IS DISTINCT FROM (SELECT model_id FROM change_clock) THEN
        RETURN NULL;
    END IF;
    IF OLD.kind = 'concept' THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            'the vector of item %s cannot be deleted alone, because a stored chunk is found by it: delete the row in '
            'chunks, and its vectors go with it', OLD.item);
    END IF;
    PERFORM chunk_renumber(OLD.item);
    PERFORM question_is_gone(OLD.item);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chunk_vectors_deleted() IS 'The concept vector goes with its chunk, not alone. A question vector that goes alone is a change of the chunk.';

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
    IF NEW.probe_question IS DISTINCT FROM OLD.probe_question THEN
        PERFORM question_forget(coalesce(NEW.item, OLD.item));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chunk_cpesh_changed() IS 'CPESH parts that are changed by SQL are a change of their chunk. With another question the vector of the old one goes.';

-- The condition keeps the program's own rows out of the queue of triggers.
CREATE TRIGGER inserted AFTER INSERT ON chunk_vectors
    FOR EACH ROW WHEN (NEW.kind = 'question' AND current_setting('lnsp.writer', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION chunk_vectors_changed();
DROP TRIGGER clock_first ON chunk_vectors;
CREATE TRIGGER clock_first BEFORE INSERT OR UPDATE OR DELETE ON chunk_vectors
    FOR EACH STATEMENT
    -- Not for the vectors that go with a chunk, one statement a row.
    WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION change_clock_lock();

-- The functions run with the rights of their owner. So they must find these tables, and none of a caller's.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'chunk_vectors_changed()', 'chunk_vectors_deleted()', 'chunk_cpesh_changed()', 'question_is_gone(bigint)',
        'question_forget(bigint)']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END
$$;
