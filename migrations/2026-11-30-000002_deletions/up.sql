-- Rows that are deleted or changed by SQL are changes like all others: they take their numbers from the clock, and a
-- deletion leaves a tombstone, so that everything that follows the clock hears of them. The program deletes in the same
-- way. What SQL cannot change without making a row untrue is refused, with what to do instead.
--
-- The order of locks is that of the program: the clock first, then rows. In its transactions the program sets
-- lnsp.writer: there it has taken the numbers itself, and the rows are true as they are.

CREATE FUNCTION change_clock_lock() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    PERFORM FROM change_clock FOR UPDATE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION change_clock_lock() IS 'Before a statement that changes chunks: its transaction is the only writer until it ends.';

CREATE FUNCTION change_clock_take(wanted bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    -- Transaction, next number, last number, size: what this transaction took from the clock and has not used.
    block bigint[] := string_to_array(current_setting('lnsp.clock_block', true), ' ');
    size  bigint := wanted;
BEGIN
    IF block[1] = pg_current_xact_id()::text::bigint THEN
        -- Each version of a row that a transaction updates again and again slows the next update down. So the blocks
        -- grow, and their ends are holes, which are legal.
        size := greatest(wanted, least(2 * block[4], 65536));
    END IF;
    IF block[1] IS DISTINCT FROM pg_current_xact_id()::text::bigint OR block[3] - block[2] + 1 < wanted THEN
        UPDATE change_clock SET seq = seq + size
        RETURNING ARRAY[pg_current_xact_id()::text::bigint, seq - size + 1, seq, size] INTO block;
    END IF;
    PERFORM set_config('lnsp.clock_block', format('%s %s %s %s', block[1], block[2] + wanted, block[3], block[4]), true);
    RETURN block[2];
END
$$;
COMMENT ON FUNCTION change_clock_take(bigint) IS 'The first of so many numbers in a row for changes of this transaction, which holds the lock of the clock.';
REVOKE EXECUTE ON FUNCTION change_clock_take(bigint) FROM PUBLIC;

CREATE FUNCTION chunks_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    number_of_rows bigint := (SELECT count(*) FROM gone);
    first_number   bigint;
BEGIN
    IF number_of_rows > 0 THEN
        first_number := change_clock_take(number_of_rows);
        INSERT INTO tombstones (seq, item, cpe_id)
        SELECT first_number - 1 + row_number() OVER (ORDER BY item), item, cpe_id FROM gone;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chunks_deleted() IS 'Leaves a tombstone for each deleted chunk.';

CREATE FUNCTION chunks_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    fixed text;
BEGIN
    IF current_setting('lnsp.writer', true) = 'on' OR NEW IS NOT DISTINCT FROM OLD THEN
        RETURN NEW;
    END IF;
    fixed := CASE
        WHEN NEW.text <> OLD.text THEN 'text'
        WHEN NEW.dataset_source <> OLD.dataset_source THEN 'dataset_source'
        WHEN NEW.id <> OLD.id THEN 'id'
        WHEN NEW.cpe_id <> OLD.cpe_id THEN 'cpe_id'
        WHEN NEW.item <> OLD.item THEN 'item'
        WHEN NEW.seq <> OLD.seq THEN 'seq'
        WHEN NEW.document_id IS DISTINCT FROM OLD.document_id THEN 'document_id'
        WHEN NEW.chunk_index <> OLD.chunk_index THEN 'chunk_index'
        WHEN NEW.source_document IS DISTINCT FROM OLD.source_document THEN 'source_document'
        WHEN NEW.article_title IS DISTINCT FROM OLD.article_title THEN 'article_title'
        WHEN NEW.article_index IS DISTINCT FROM OLD.article_index THEN 'article_index'
        WHEN NEW.content_hash <> OLD.content_hash THEN 'content_hash'
        WHEN NEW.details_hash <> OLD.details_hash OR OLD.details_hash IS NULL AND NEW.details_hash IS NOT NULL
            THEN 'details_hash'
        WHEN NEW.truncated <> OLD.truncated THEN 'truncated'
        WHEN NEW.unread IS DISTINCT FROM OLD.unread THEN 'unread'
        WHEN NEW.created_at <> OLD.created_at THEN 'created_at'
    END;
    IF fixed IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            '%s of a stored chunk cannot be changed by SQL, because its id, its hashes and its vector depend on it: send '
            'the chunk again with on_conflict=replace (lnsp ingest --on-conflict replace), or delete the row and send '
            'the new one', fixed);
    END IF;
    IF jsonb_typeof(NEW.metadata) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            'metadata of a chunk is a JSON object or NULL, received a JSON %s', jsonb_typeof(NEW.metadata));
    END IF;
    IF array_ndims(NEW.parent_cpe_ids) > 1 OR array_ndims(NEW.child_cpe_ids) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
            MESSAGE = 'parent_cpe_ids and child_cpe_ids of a chunk are plain lists, received an array of arrays';
    END IF;
    IF (NEW.metadata, NEW.parent_cpe_ids, NEW.child_cpe_ids)
       IS DISTINCT FROM (OLD.metadata, OLD.parent_cpe_ids, OLD.child_cpe_ids) THEN
        -- Without the hash, the fields are compared.
        NEW.details_hash := NULL;
    END IF;
    IF (NEW.domain_code, NEW.task_code, NEW.modifier_code)
       IS DISTINCT FROM (OLD.domain_code, OLD.task_code, OLD.modifier_code)
       AND (NEW.tmd_source, NEW.tmd_model, NEW.tmd_failure, NEW.tmd_took_us, NEW.domain_confidence,
            NEW.task_confidence, NEW.modifier_confidence)
       IS NOT DISTINCT FROM (OLD.tmd_source, OLD.tmd_model, OLD.tmd_failure, OLD.tmd_took_us,
            OLD.domain_confidence, OLD.task_confidence, OLD.modifier_confidence) THEN
        -- The old source did not give these codes.
        NEW.tmd_source := 'client';
        NEW.tmd_model := NULL;
        NEW.tmd_failure := NULL;
        NEW.tmd_took_us := NULL;
        NEW.domain_confidence := NULL;
        NEW.task_confidence := NULL;
        NEW.modifier_confidence := NULL;
    END IF;
    NEW.seq := change_clock_take(1);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chunks_changed() IS 'Numbers a change that was made by SQL, keeps what the row says about itself true, and refuses what only the program can change.';

CREATE FUNCTION chunk_renumber(changed bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET lnsp.writer = on
AS $$
BEGIN
    -- Without the hash, the fields are compared.
    UPDATE chunks SET seq = change_clock_take(1), details_hash = NULL WHERE item = changed;
END
$$;
COMMENT ON FUNCTION chunk_renumber(bigint) IS 'A chunk is changed when what belongs to it was.';
REVOKE EXECUTE ON FUNCTION chunk_renumber(bigint) FROM PUBLIC;

CREATE FUNCTION chunk_vectors_changed() RETURNS trigger
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
COMMENT ON FUNCTION chunk_vectors_changed() IS 'A chunk whose vector was changed by SQL is a changed chunk.';

CREATE FUNCTION chunk_vectors_deleted() RETURNS trigger
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
COMMENT ON FUNCTION chunk_vectors_deleted() IS 'The vector that is searched goes with its chunk, not alone.';

CREATE FUNCTION chunk_cpesh_changed() RETURNS trigger
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
COMMENT ON FUNCTION chunk_cpesh_changed() IS 'CPESH parts that are changed by SQL are a change of their chunk.';

CREATE FUNCTION truncate_refused() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
        'TRUNCATE of %s is refused, because the search index would not hear of it: use DELETE FROM chunks, or '
        'lnsp delete --dataset NAME', TG_TABLE_NAME);
END
$$;
COMMENT ON FUNCTION truncate_refused() IS 'TRUNCATE leaves no tombstones.';

CREATE TRIGGER clock_first BEFORE DELETE OR UPDATE ON chunks
    FOR EACH STATEMENT EXECUTE FUNCTION change_clock_lock();
CREATE TRIGGER deleted AFTER DELETE ON chunks REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_deleted();
CREATE TRIGGER changed BEFORE UPDATE ON chunks
    FOR EACH ROW EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON chunks
    FOR EACH STATEMENT EXECUTE FUNCTION truncate_refused();

CREATE TRIGGER clock_first BEFORE UPDATE ON chunk_vectors
    FOR EACH STATEMENT EXECUTE FUNCTION change_clock_lock();
CREATE TRIGGER changed AFTER UPDATE ON chunk_vectors
    FOR EACH ROW EXECUTE FUNCTION chunk_vectors_changed();
CREATE TRIGGER deleted AFTER DELETE ON chunk_vectors
    FOR EACH ROW EXECUTE FUNCTION chunk_vectors_deleted();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON chunk_vectors
    FOR EACH STATEMENT EXECUTE FUNCTION truncate_refused();

CREATE TRIGGER clock_first BEFORE INSERT OR UPDATE OR DELETE ON chunk_cpesh
    FOR EACH STATEMENT EXECUTE FUNCTION change_clock_lock();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chunk_cpesh
    FOR EACH ROW EXECUTE FUNCTION chunk_cpesh_changed();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON chunk_cpesh
    FOR EACH STATEMENT EXECUTE FUNCTION truncate_refused();

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION truncate_refused();

-- The views of the old tables, cpe_vectors_json among them through cpe_vectors. A deletion is a rule, not a trigger: the
-- whole statement becomes one on chunks, and none of the columns that take long is computed for it.

CREATE RULE cpe_entry_delete AS ON DELETE TO cpe_entry
    DO INSTEAD DELETE FROM chunks WHERE chunks.cpe_id = OLD.cpe_id;
CREATE RULE cpe_vectors_delete AS ON DELETE TO cpe_vectors
    DO INSTEAD DELETE FROM chunks WHERE chunks.cpe_id = OLD.cpe_id;

CREATE FUNCTION cpe_entry_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    changed text[] := ARRAY(
        SELECT after.key FROM jsonb_each(to_jsonb(NEW)) AS after JOIN jsonb_each(to_jsonb(OLD)) AS before USING (key)
        WHERE after.value <> before.value ORDER BY after.key);
    allowed CONSTANT text[] := '{domain_code,task_code,modifier_code,batch_id,parent_cpe_ids,child_cpe_ids}';
    fixed   text := (SELECT name FROM unnest(changed) AS name WHERE name <> ALL (allowed) LIMIT 1);
BEGIN
    IF fixed IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
            '%s of cpe_entry cannot be changed by SQL (%s can): send the chunk again with on_conflict=replace '
            '(lnsp ingest --on-conflict replace), or delete the row and send the new one',
            fixed, array_to_string(allowed, ', '));
    END IF;
    IF 'array' <> ANY (ARRAY[jsonb_typeof(NEW.parent_cpe_ids), jsonb_typeof(NEW.child_cpe_ids)]) THEN
        RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
            MESSAGE = 'parent_cpe_ids and child_cpe_ids of cpe_entry are JSON arrays of texts; an empty one is []';
    END IF;
    UPDATE chunks SET
        domain_code = NEW.domain_code, task_code = NEW.task_code, modifier_code = NEW.modifier_code,
        batch_id = NEW.batch_id,
        parent_cpe_ids = ARRAY(SELECT jsonb_array_elements_text(NEW.parent_cpe_ids)),
        child_cpe_ids = ARRAY(SELECT jsonb_array_elements_text(NEW.child_cpe_ids))
    WHERE cpe_id = OLD.cpe_id;
    RETURN CASE WHEN FOUND THEN NEW END;
END
$$;
COMMENT ON FUNCTION cpe_entry_changed() IS 'Writes codes, batch and links to the table, and refuses other changes.';

CREATE FUNCTION old_table_refused() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'restrict_violation', MESSAGE = format(
        '%s of %s is refused: it is a view for readers, and a chunk needs an id, hashes and a vector; send it to '
        'POST /ingest (lnsp ingest FILE)', TG_OP, TG_TABLE_NAME);
END
$$;
COMMENT ON FUNCTION old_table_refused() IS 'Rows of the old tables are made by the program only.';

CREATE TRIGGER changed INSTEAD OF UPDATE ON cpe_entry
    FOR EACH ROW EXECUTE FUNCTION cpe_entry_changed();
CREATE TRIGGER refused INSTEAD OF INSERT ON cpe_entry
    FOR EACH ROW EXECUTE FUNCTION old_table_refused();
CREATE TRIGGER refused INSTEAD OF INSERT OR UPDATE ON cpe_vectors
    FOR EACH ROW EXECUTE FUNCTION old_table_refused();

-- The functions run with the rights of their owner, so that a right on the table is enough. So they must find these
-- tables, and none of a caller's.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'change_clock_lock()', 'change_clock_take(bigint)', 'chunks_deleted()', 'chunks_changed()',
        'chunk_renumber(bigint)', 'chunk_vectors_changed()', 'chunk_vectors_deleted()', 'chunk_cpesh_changed()',
        'truncate_refused()', 'cpe_entry_changed()', 'old_table_refused()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END
$$;

COMMENT ON COLUMN chunks.seq IS 'Number of the last change of this row, from change_clock. A change by SQL gets one from a trigger.';
COMMENT ON COLUMN chunks.details_hash IS 'blake3 of metadata, links and the CPESH parts of the client, which can differ in a repetition. Absent in rows of the first version, and where SQL has changed them: then the fields are compared.';
COMMENT ON TABLE tombstones IS 'One row per deleted chunk, written by a trigger, so that everything that follows the clock hears of it.';
