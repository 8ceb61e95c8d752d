//! The SQL around a restore: what goes before the rows of a backup, and what comes after them, in their transaction.
//!
//! Everything that the migrations make is dropped by its name, whichever version made it, so that a backup of an earlier
//! version can take the place of a later one.

/// The tables that the migrations make, the clock first: the transaction that has it is the only writer.
pub const TABLES: [&str; 10] = [
    "change_clock",
    "chunks",
    "chunk_vectors",
    "chunk_cpesh",
    "chunk_access",
    "tombstones",
    "question_tombstones",
    "dead_letters",
    "models",
    "__diesel_schema_migrations",
];

/// The views that the migrations make.
pub const VIEWS: [&str; 5] =
    ["chunk_lines", "chunk_vectors_real", "cpe_entry", "cpe_vectors", "cpe_vectors_json"];

/// The functions that the migrations make.
pub const FUNCTIONS: [&str; 25] = [
    "bytea_to_real_array",
    "change_clock_lock",
    "change_clock_take",
    "chunk_cpesh_changed",
    "chunk_renumber",
    "chunk_vectors_changed",
    "chunk_vectors_deleted",
    "chunks_changed",
    "chunks_deleted",
    "cpe_confidence",
    "cpe_entry_changed",
    "new_chunk_numbers",
    "old_table_refused",
    "question_forget",
    "question_is_gone",
    "real_array_norm",
    "real_array_normalised",
    "store_history",
    "tmd_16d_canonical",
    "tmd_16d_ingest",
    "tmd_bits_canonical",
    "tmd_lane_index",
    "tmd_projection",
    "truncate_refused",
    "vector_text",
];

/// Begins the transaction and empties the place for the backup. Without `replace` it fails when chunks are stored: the
/// look is made under the lock that keeps writers out. `schema` is the schema of the backup's tables. Other sessions wait
/// for the tables until the end of the transaction.
pub fn before_restore(schema: &str, replace: bool) -> String {
    let schema = literal(schema);
    let list = |names: &[&str]| format!("'{{{}}}'", names.join(","));
    let (tables, views, functions) = (list(&TABLES), list(&VIEWS), list(&FUNCTIONS));
    let refuse = if replace {
        ""
    } else {
        "IF name = 'chunks' THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I)', place, name) INTO stored;
                IF stored THEN
                    RAISE EXCEPTION 'the store holds chunks; add --replace to have the backup take their place';
                END IF;
            END IF;"
    };
    format!(
        "BEGIN;
SET LOCAL lock_timeout = '60s';
DO $restore$
DECLARE
    place  CONSTANT text := {schema};
    name   text;
    stored boolean;
    gone   text;
BEGIN
    -- One after the other, in the order of the program's own locks.
    FOREACH name IN ARRAY {tables}::text[] LOOP
        IF to_regclass(format('%I.%I', place, name)) IS NOT NULL THEN
            EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', place, name);
            {refuse}
        END IF;
    END LOOP;
    SELECT string_agg(format('%I.%I', place, view), ', ') INTO gone FROM unnest({views}::text[]) AS view;
    EXECUTE 'DROP VIEW IF EXISTS ' || gone;
    SELECT string_agg(format('%I.%I', place, each), ', ') INTO gone FROM unnest({tables}::text[]) AS each;
    EXECUTE 'DROP TABLE IF EXISTS ' || gone;
    SELECT string_agg(oid::regprocedure::text, ', ') INTO gone
    FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(place)) AND proname = ANY ({functions});
    IF gone IS NOT NULL THEN
        EXECUTE 'DROP FUNCTION ' || gone;
    END IF;
END
$restore$;
"
    )
}

/// Tells the indexes that the history is another one, and commits. Nothing of a restore is there before this.
pub fn after_restore(schema: &str) -> String {
    let schema = literal(schema);
    format!(
        "
DO $restore$
BEGIN
    -- An earlier version has no such column; the tables are others than before for its indexes, too.
    IF EXISTS (SELECT FROM information_schema.columns WHERE table_schema = {schema}
               AND table_name = 'change_clock' AND column_name = 'history') THEN
        EXECUTE format('UPDATE %I.change_clock SET history = gen_random_uuid()', {schema});
    END IF;
END
$restore$;
COMMIT;
"
    )
}

/// A text as SQL writes it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_schema_are_quoted() {
        assert_eq!(literal("it's"), "'it''s'");
        assert!(before_restore("o'x", true).contains("text := 'o''x';"));
    }

    #[test]
    fn only_a_restore_that_replaces_does_not_look_for_chunks() {
        assert!(before_restore("public", false).contains("--replace"));
        assert!(!before_restore("public", true).contains("--replace"));
    }
}
