-- Truncation. The rows of events that were truncated go, but for two kinds, which stay without their payload: the newest
-- of each stream, which tells how far it is, and those of the newest commits, by which a commit is known that is sent
-- again. A later truncation of the same stream takes the latter.

CREATE TABLE maestro_floors (
    aggregate_id bytea PRIMARY KEY,
    first_sequence bigint NOT NULL,
    whole bytea
);

ALTER TABLE maestro_head ADD COLUMN truncated bigint NOT NULL DEFAULT 0;

-- What stands in the way, if anything does: the sequence of the newest event that was to go, and that of the snapshot.
CREATE FUNCTION maestro_truncate(
    id bytea, is_resent boolean, of_aggregate bytea, before bigint, whole_id bytea,
    OUT newest bigint, OUT covered bigint
) LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
    head maestro_head;
    first bigint;
    gone bigint;
BEGIN
    nothing := maestro_take_turn();
    SELECT f.first_sequence INTO first FROM maestro_floors f WHERE f.aggregate_id = of_aggregate;
    first := coalesce(first, 0);
    SELECT e.sequence INTO newest FROM maestro_events e
    WHERE e.aggregate_id = of_aggregate AND e.sequence >= first AND e.sequence < before
    ORDER BY e.sequence DESC LIMIT 1;
    IF newest IS NULL THEN
        IF is_resent THEN PERFORM maestro_wait_for_replicas(); END IF;
        RETURN;
    END IF;
    SELECT s.sequence INTO covered FROM maestro_snapshots s WHERE s.aggregate_id = of_aggregate
    ORDER BY s.sequence DESC LIMIT 1;
    IF covered IS NULL OR covered < newest THEN RETURN; END IF;

    SELECT * INTO STRICT head FROM maestro_head;
    SELECT count(*) INTO gone FROM maestro_events e
    WHERE e.aggregate_id = of_aggregate AND e.sequence >= first AND e.sequence <= newest;
    DELETE FROM maestro_events e
    WHERE e.aggregate_id = of_aggregate AND e.sequence <= newest AND e.commit <= head.commits - 10000
        AND e.sequence < (SELECT max(l.sequence) FROM maestro_events l WHERE l.aggregate_id = of_aggregate);
    UPDATE maestro_events e SET payload = ''
    WHERE e.aggregate_id = of_aggregate AND e.sequence >= first AND e.sequence <= newest;
    INSERT INTO maestro_floors VALUES (of_aggregate, newest + 1, whole_id)
    ON CONFLICT (aggregate_id) DO UPDATE SET first_sequence = excluded.first_sequence;
    UPDATE maestro_head SET truncated = truncated + gone;
    nothing := maestro_count_commit(head);
    newest := NULL;
END $$;

CREATE OR REPLACE FUNCTION maestro_reset(of_incarnation bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
    head maestro_head;
BEGIN
    nothing := maestro_take_turn();
    SELECT * INTO STRICT head FROM maestro_head;
    IF head.incarnation <> of_incarnation THEN RETURN; END IF;
    DELETE FROM maestro_events;
    DELETE FROM maestro_snapshots;
    DELETE FROM maestro_entries;
    DELETE FROM maestro_tables;
    DELETE FROM maestro_floors;
    UPDATE maestro_head SET incarnation = incarnation + 1, commits = 0, last_position = 0, aggregates = 0, latest = 0,
        truncated = 0
    RETURNING * INTO head;
    PERFORM pg_notify(head.channel, concat_ws(' ', head.incarnation, head.last_position, head.commits));
END $$;

-- As before, but some positions may have no event any more: the one before tells.
CREATE OR REPLACE FUNCTION maestro_position_at(moment bigint, most bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    least bigint := 0;
    middle bigint;
    before bigint;
BEGIN
    WHILE least < most LOOP
        middle := (least + most + 1) / 2;
        SELECT e.latest INTO before FROM maestro_events e WHERE e.position <= middle ORDER BY e.position DESC LIMIT 1;
        IF coalesce(before <= moment, true) THEN
            least := middle;
        ELSE
            most := middle - 1;
        END IF;
    END LOOP;
    RETURN least;
END $$;

CREATE OR REPLACE VIEW maestro_events_json AS
SELECT e.position, maestro_text(coalesce(e.whole, e.aggregate_id)) AS aggregate_id, e.sequence,
    e.content ->> 0 AS type, e.content -> 1 AS body, e.content -> 2 AS metadata,
    to_timestamp(e.timestamp / 65536000.0) AS time, e.commit
FROM (
    SELECT e.*, (maestro_unpack(payload, 0)).value AS content FROM maestro_events e WHERE length(payload) > 0
) e;
