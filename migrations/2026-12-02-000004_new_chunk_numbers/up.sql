-- The lock of the clock, the look-up of keys and the numbers of new chunks in one call, so that one statement stores a
-- batch. A client that stops in the middle of sending it holds no lock: the server begins when it has the whole statement,
-- and commits at its end.

CREATE FUNCTION new_chunk_numbers(datasets text[], ids text[], model integer)
    RETURNS TABLE (known boolean, seq bigint, item bigint)
    LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    there     boolean[];
    wanted    bigint;
    last_seq  bigint;
    last_item bigint;
BEGIN
    PERFORM FROM change_clock FOR UPDATE;
    -- The program takes the numbers, and its rows are true.
    PERFORM set_config('lnsp.writer', 'on', true);
    -- A statement of its own: its snapshot sees the commits that the lock waited for. LIMIT keeps the planner from
    -- replacing the look-ups by another join.
    there := ARRAY(
        SELECT stored.there IS NOT NULL
        FROM unnest(datasets, ids) WITH ORDINALITY AS keys (dataset_source, id, place)
        LEFT JOIN LATERAL (SELECT true AS there FROM chunks
                           WHERE chunks.dataset_source = keys.dataset_source AND chunks.id = keys.id
                           LIMIT 1) AS stored ON true
        ORDER BY place);
    wanted := (SELECT count(*) FROM unnest(there) AS is_there WHERE NOT is_there);
    UPDATE change_clock SET seq = change_clock.seq + wanted, next_item = change_clock.next_item + wanted
    WHERE wanted > 0 AND change_clock.model_id = model
    RETURNING change_clock.seq - wanted, change_clock.next_item - wanted - 1 INTO last_seq, last_item;
    RETURN QUERY
        SELECT is_there,
               CASE WHEN NOT is_there THEN last_seq + nth END,
               CASE WHEN NOT is_there THEN last_item + nth END
        FROM (SELECT is_there, place,
                     count(*) FILTER (WHERE NOT is_there) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) AS nth
              FROM unnest(there) WITH ORDINALITY AS keys (is_there, place)) AS numbered
        ORDER BY place;
END
$$;
COMMENT ON FUNCTION new_chunk_numbers(text[], text[], integer) IS 'For each key, in order, whether it is stored, else its numbers; without numbers the store has another model. From here on the transaction is the only writer, until it ends.';
