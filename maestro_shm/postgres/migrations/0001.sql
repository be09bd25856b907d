-- The first schema. Events are partitioned where `migrate` is told to: {partitioned} is filled in by it.
--
-- Nothing is ever changed or removed but by a reset: each row carries the number of the commit that it came with, so
-- that a cut is a number, and every past state is there. Ids, names and keys are UTF-8 in `bytea`, since `text` has no
-- NUL and its order is the collation's. One of over 1,000 bytes is cut there, made unique by its hash, and stands whole
-- in the column `whole`, since an entry of an index has to fit on a third of a page. Payloads are msgpack.

CREATE TABLE maestro_head (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    schema_version integer NOT NULL,
    channel text NOT NULL,
    incarnation bigint NOT NULL,
    commits bigint NOT NULL,
    last_position bigint NOT NULL,
    aggregates bigint NOT NULL,
    clock bigint NOT NULL,
    latest bigint NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE maestro_events (
    aggregate_id bytea NOT NULL,
    sequence bigint NOT NULL,
    position bigint NOT NULL,
    timestamp bigint NOT NULL,
    latest bigint NOT NULL,
    commit bigint NOT NULL,
    commit_id bytea NOT NULL,
    payload bytea NOT NULL,
    whole bytea,
    PRIMARY KEY (aggregate_id, sequence)
) {partitioned};

CREATE INDEX maestro_events_position ON maestro_events (position);

CREATE TABLE maestro_snapshots (
    aggregate_id bytea NOT NULL,
    sequence bigint NOT NULL,
    commit bigint NOT NULL,
    commit_id bytea NOT NULL,
    payload bytea NOT NULL,
    whole bytea,
    PRIMARY KEY (aggregate_id, sequence)
);

CREATE TABLE maestro_entries (
    table_name bytea NOT NULL,
    key bytea NOT NULL,
    version bigint NOT NULL,
    commit bigint NOT NULL,
    commit_id bytea NOT NULL,
    payload bytea,
    whole bytea,
    PRIMARY KEY (table_name, key, version)
);

CREATE TABLE maestro_tables (
    name bytea NOT NULL,
    version bigint NOT NULL,
    commit bigint NOT NULL,
    PRIMARY KEY (name, version)
);

-- Incarnations begin with the time, so that a store that was dropped and made anew is another one.
INSERT INTO maestro_head
SELECT true, 0, 'maestro_' || substr(md5(random()::text || clock_timestamp()::text), 1, 24),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0, 0, 0, 0, 0;

-- Commits are made one at a time, so that positions have no gap and become visible in their order. The lock is one that
-- leaves no trace: who meets a conflict writes nothing, and waits for no disk. It ends with the transaction, when its
-- rows have become visible. (What is only assigned, as here, costs a fifth of a statement.)
CREATE FUNCTION maestro_take_turn() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
BEGIN
    nothing := pg_advisory_xact_lock(1835102323, 'maestro_head'::regclass::oid::bigint::bit(32)::integer);
END $$;

-- What a commit stored before its session ended or its server restarted need not be on the replicas that it was to wait
-- for. Whoever is told of it now waits for them by a write of its own, which comes after it there.
CREATE FUNCTION maestro_wait_for_replicas() RETURNS void LANGUAGE sql AS $$
    UPDATE maestro_head SET commits = commits
$$;

-- A hybrid logical clock: milliseconds with 16 binary places, which never go back.
CREATE FUNCTION maestro_tick(last bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT greatest((extract(epoch FROM clock_timestamp()) * 65536000)::bigint, last + 1)
$$;

-- The outcome of a commit is either the position of the first event with the timestamps of all, or a conflict: its kind
-- ('stream', 'entry' or 'table' for a read, 'event' or 'change' for what is to be written), its place in the arguments
-- of this kind, counted from 1, and what there is, -1 for nothing. One that was sent before is answered with what became
-- of it then. Written out for one event, which most commits have: that takes half the time.
CREATE FUNCTION maestro_commit_events(
    id bytea, is_resent boolean,
    aggregate_ids bytea[], sequences bigint[], given bigint[], payloads bytea[], whole_ids bytea[],
    OUT first_position bigint, OUT timestamps bigint[], OUT conflict text, OUT place bigint, OUT present bigint
) LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
    head maestro_head;
    events integer := cardinality(aggregate_ids);
    new_streams bigint := 0;
    now_clock bigint;
    newest bigint;
    one bigint;
BEGIN
    nothing := maestro_take_turn();
    IF is_resent THEN
        SELECT e.position INTO first_position FROM maestro_events e
        WHERE e.aggregate_id = aggregate_ids[1] AND e.sequence = sequences[1] AND e.commit_id = id;
        IF first_position IS NOT NULL THEN
            SELECT array_agg(e.timestamp ORDER BY e.position) INTO timestamps FROM maestro_events e
            WHERE e.position >= first_position AND e.position < first_position + events;
            PERFORM maestro_wait_for_replicas();
            RETURN;
        END IF;
    END IF;

    IF events = 1 THEN
        SELECT e.sequence INTO present FROM maestro_events e WHERE e.aggregate_id = aggregate_ids[1]
        ORDER BY e.sequence DESC LIMIT 1;
        IF present >= sequences[1] THEN
            conflict := 'event';
            place := 1;
            RETURN;
        END IF;
        new_streams := CASE WHEN present IS NULL THEN 1 ELSE 0 END;
        present := NULL;
    ELSE
        SELECT count(*) FILTER (WHERE s.sequence IS NULL), min(r.place) FILTER (WHERE s.sequence >= r.sequence)
        INTO new_streams, place
        FROM (
            SELECT DISTINCT ON (u.aggregate_id) u.* FROM
            unnest(aggregate_ids, sequences) WITH ORDINALITY u(aggregate_id, sequence, place)
            ORDER BY u.aggregate_id, u.place
        ) r LEFT JOIN LATERAL (
            SELECT e.sequence FROM maestro_events e WHERE e.aggregate_id = r.aggregate_id
            ORDER BY e.sequence DESC LIMIT 1
        ) s ON true;
        IF place IS NOT NULL THEN
            SELECT 'event', max(e.sequence) INTO conflict, present FROM maestro_events e
            WHERE e.aggregate_id = aggregate_ids[place];
            RETURN;
        END IF;
    END IF;

    SELECT * INTO STRICT head FROM maestro_head;
    first_position := head.last_position + 1;
    IF given IS NULL THEN
        now_clock := maestro_tick(head.clock);
        IF events = 1 THEN
            timestamps := ARRAY[now_clock];
        ELSE
            SELECT array_agg(now_clock + n) INTO timestamps FROM generate_series(0, events - 1) n;
            now_clock := now_clock + events - 1;
        END IF;
        newest := greatest(head.latest, now_clock);
    ELSE
        now_clock := head.clock;
        newest := head.latest;
        timestamps := '{}';
        FOREACH one IN ARRAY given LOOP
            now_clock := CASE WHEN one IS NULL THEN maestro_tick(now_clock) ELSE greatest(now_clock, one) END;
            one := coalesce(one, now_clock);
            newest := greatest(newest, one);
            timestamps := timestamps || one;
        END LOOP;
    END IF;
    IF events = 1 THEN
        INSERT INTO maestro_events
        VALUES (aggregate_ids[1], sequences[1], first_position, timestamps[1], newest, head.commits + 1, id, payloads[1],
            whole_ids[1]);
    ELSE
        INSERT INTO maestro_events
        SELECT n.aggregate_id, n.sequence, first_position + n.place - 1, n.timestamp, newest, head.commits + 1, id,
            n.payload, n.whole
        FROM unnest(aggregate_ids, sequences, timestamps, payloads, whole_ids)
            WITH ORDINALITY n(aggregate_id, sequence, timestamp, payload, whole, place);
    END IF;
    UPDATE maestro_head SET commits = head.commits + 1, last_position = head.last_position + events,
        aggregates = head.aggregates + new_streams, clock = now_clock, latest = newest;
    nothing := pg_notify(
        head.channel, concat_ws(' ', head.incarnation, head.last_position + events, head.commits + 1)
    );
END $$;

CREATE FUNCTION maestro_commit(
    id bytea, is_resent boolean,
    aggregate_ids bytea[], sequences bigint[], given bigint[], payloads bytea[], whole_ids bytea[],
    table_names bytea[], keys bytea[], versions bigint[], new_values bytea[], whole_keys bytea[],
    read_streams bytea[], read_sequences bigint[],
    read_entry_tables bytea[], read_entry_keys bytea[], read_versions bigint[],
    read_tables bytea[], read_table_versions bigint[],
    OUT first_position bigint, OUT timestamps bigint[], OUT conflict text, OUT place bigint, OUT present bigint
) LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
    head maestro_head;
    events integer := cardinality(aggregate_ids);
BEGIN
    nothing := maestro_take_turn();
    IF is_resent THEN
        IF events > 0 THEN
            SELECT e.position INTO first_position FROM maestro_events e
            WHERE e.aggregate_id = aggregate_ids[1] AND e.sequence = sequences[1] AND e.commit_id = id;
        ELSE
            SELECT 0 INTO first_position FROM maestro_entries e
            WHERE e.table_name = table_names[1] AND e.key = keys[1] AND e.version = versions[1] AND e.commit_id = id;
        END IF;
        IF first_position IS NOT NULL THEN
            SELECT coalesce(array_agg(e.timestamp ORDER BY e.position), '{}') INTO timestamps FROM maestro_events e
            WHERE e.position >= first_position AND e.position < first_position + events;
            PERFORM maestro_wait_for_replicas();
            RETURN;
        END IF;
    END IF;

    IF cardinality(read_streams) > 0 THEN
        SELECT 'stream', r.place, coalesce(s.sequence, -1) INTO conflict, place, present
        FROM unnest(read_streams, read_sequences) WITH ORDINALITY r(aggregate_id, sequence, place)
        LEFT JOIN LATERAL (
            SELECT e.sequence FROM maestro_events e WHERE e.aggregate_id = r.aggregate_id
            ORDER BY e.sequence DESC LIMIT 1
        ) s ON true
        WHERE coalesce(s.sequence, -1) <> r.sequence ORDER BY r.place LIMIT 1;
        IF conflict IS NOT NULL THEN RETURN; END IF;
    END IF;
    IF cardinality(read_entry_keys) > 0 THEN
        SELECT 'entry', r.place, coalesce(s.version, -1) INTO conflict, place, present
        FROM unnest(read_entry_tables, read_entry_keys, read_versions) WITH ORDINALITY r(table_name, key, version, place)
        LEFT JOIN LATERAL (
            SELECT e.version FROM maestro_entries e WHERE e.table_name = r.table_name AND e.key = r.key
            ORDER BY e.version DESC LIMIT 1
        ) s ON true
        WHERE coalesce(s.version, -1) <> r.version ORDER BY r.place LIMIT 1;
        IF conflict IS NOT NULL THEN RETURN; END IF;
    END IF;
    IF cardinality(read_tables) > 0 THEN
        SELECT 'table', r.place, coalesce(s.version, -1) INTO conflict, place, present
        FROM unnest(read_tables, read_table_versions) WITH ORDINALITY r(name, version, place)
        LEFT JOIN LATERAL (
            SELECT t.version FROM maestro_tables t WHERE t.name = r.name ORDER BY t.version DESC LIMIT 1
        ) s ON true
        WHERE coalesce(s.version, -1) <> r.version ORDER BY r.place LIMIT 1;
        IF conflict IS NOT NULL THEN RETURN; END IF;
    END IF;
    IF cardinality(keys) > 0 THEN
        SELECT 'change', r.place, s.version INTO conflict, place, present
        FROM unnest(table_names, keys, versions) WITH ORDINALITY r(table_name, key, version, place)
        CROSS JOIN LATERAL (
            SELECT e.version FROM maestro_entries e WHERE e.table_name = r.table_name AND e.key = r.key
            ORDER BY e.version DESC LIMIT 1
        ) s
        WHERE s.version >= r.version ORDER BY r.place LIMIT 1;
        IF conflict IS NOT NULL THEN RETURN; END IF;
    END IF;

    SELECT * INTO STRICT head FROM maestro_head;
    IF events > 0 THEN
        SELECT * INTO first_position, timestamps, conflict, place, present
        FROM maestro_commit_events(id, false, aggregate_ids, sequences, given, payloads, whole_ids);
        IF conflict IS NOT NULL THEN RETURN; END IF;
    ELSE
        first_position := head.last_position + 1;
        timestamps := '{}';
        nothing := maestro_count_commit(head);
    END IF;
    IF cardinality(keys) > 0 THEN
        INSERT INTO maestro_tables
        SELECT moved.table_name, coalesce((
            SELECT t.version FROM maestro_tables t WHERE t.name = moved.table_name ORDER BY t.version DESC LIMIT 1
        ), -1) + 1, head.commits + 1
        FROM (
            SELECT DISTINCT n.table_name FROM unnest(table_names, keys, new_values) n(table_name, key, payload)
            WHERE (n.payload IS NOT NULL) <> coalesce((
                SELECT e.payload IS NOT NULL FROM maestro_entries e
                WHERE e.table_name = n.table_name AND e.key = n.key ORDER BY e.version DESC LIMIT 1
            ), false)
        ) moved;
        INSERT INTO maestro_entries
        SELECT n.table_name, n.key, n.version, head.commits + 1, id, n.payload, n.whole
        FROM unnest(table_names, keys, versions, new_values, whole_keys) n(table_name, key, version, payload, whole);
    END IF;
END $$;

-- Note a commit without events.
CREATE FUNCTION maestro_count_commit(head maestro_head) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE maestro_head SET commits = head.commits + 1;
    PERFORM pg_notify(head.channel, concat_ws(' ', head.incarnation, head.last_position, head.commits + 1));
END $$;

-- Commits of another store as they were there, some at once: `numbers` tells of each event to which of them it belongs.
-- The outcome is none, or a conflict as above; of the kind 'position' where events have come between.
CREATE FUNCTION maestro_commit_copies(
    id bytea,
    is_resent boolean,
    first_position bigint,
    aggregate_ids bytea[], sequences bigint[], given bigint[], payloads bytea[], whole_ids bytea[], numbers bigint[],
    OUT conflict text, OUT place bigint, OUT present bigint
) LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
    head maestro_head;
    events integer := cardinality(aggregate_ids);
    new_streams bigint;
    newest bigint;
BEGIN
    nothing := maestro_take_turn();
    IF is_resent AND EXISTS (
        SELECT FROM maestro_events e WHERE e.position = first_position AND e.commit_id = id
    ) THEN
        PERFORM maestro_wait_for_replicas();
        RETURN;
    END IF;
    SELECT * INTO STRICT head FROM maestro_head;
    IF head.last_position <> first_position - 1 THEN
        conflict := 'position';
        present := head.last_position;
        RETURN;
    END IF;
    SELECT count(*) FILTER (WHERE s.sequence IS NULL), min(r.place) FILTER (WHERE s.sequence >= r.sequence)
    INTO new_streams, place
    FROM (
        SELECT DISTINCT ON (u.aggregate_id) u.* FROM
        unnest(aggregate_ids, sequences) WITH ORDINALITY u(aggregate_id, sequence, place)
        ORDER BY u.aggregate_id, u.place
    ) r LEFT JOIN LATERAL (
        SELECT e.sequence FROM maestro_events e WHERE e.aggregate_id = r.aggregate_id
        ORDER BY e.sequence DESC LIMIT 1
    ) s ON true;
    IF place IS NOT NULL THEN
        SELECT 'event', max(e.sequence) INTO conflict, present FROM maestro_events e
        WHERE e.aggregate_id = aggregate_ids[place];
        RETURN;
    END IF;

    INSERT INTO maestro_events
    SELECT n.aggregate_id, n.sequence, first_position + n.place - 1, n.timestamp,
        greatest(head.latest, max(n.timestamp) OVER (ORDER BY n.number)), head.commits + n.number, id, n.payload, n.whole
    FROM unnest(aggregate_ids, sequences, given, payloads, whole_ids, numbers)
        WITH ORDINALITY n(aggregate_id, sequence, timestamp, payload, whole, number, place);
    SELECT max(t) INTO newest FROM unnest(given) t;
    UPDATE maestro_head SET commits = head.commits + numbers[events], last_position = head.last_position + events,
        aggregates = head.aggregates + new_streams, clock = greatest(head.clock, newest),
        latest = greatest(head.latest, newest);
    nothing := pg_notify(
        head.channel, concat_ws(' ', head.incarnation, head.last_position + events, head.commits + numbers[events])
    );
END $$;

CREATE FUNCTION maestro_commit_snapshot(
    id bytea, is_resent boolean, of_aggregate bytea, at_sequence bigint, new_payload bytea, whole_id bytea
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    nothing text;
    head maestro_head;
    newest maestro_snapshots;
BEGIN
    nothing := maestro_take_turn();
    SELECT * INTO newest FROM maestro_snapshots s WHERE s.aggregate_id = of_aggregate ORDER BY s.sequence DESC LIMIT 1;
    IF is_resent AND EXISTS (
        SELECT FROM maestro_snapshots s
        WHERE s.aggregate_id = of_aggregate AND s.sequence = at_sequence AND s.commit_id = id
    ) THEN
        PERFORM maestro_wait_for_replicas();
        RETURN true;
    END IF;
    IF newest.sequence >= at_sequence THEN RETURN false; END IF;
    SELECT * INTO STRICT head FROM maestro_head;
    INSERT INTO maestro_snapshots VALUES (of_aggregate, at_sequence, head.commits + 1, id, new_payload, whole_id);
    nothing := maestro_count_commit(head);
    RETURN true;
END $$;

-- By DELETE and not TRUNCATE, which a reader's snapshot does not see: it would find an empty store with the old number.
-- One that is sent again since its reply was lost must not forget what came after the first.
CREATE FUNCTION maestro_reset(of_incarnation bigint) RETURNS void LANGUAGE plpgsql AS $$
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
    UPDATE maestro_head SET incarnation = incarnation + 1, commits = 0, last_position = 0, aggregates = 0, latest = 0
    RETURNING * INTO head;
    PERFORM pg_notify(head.channel, concat_ws(' ', head.incarnation, head.last_position, head.commits));
END $$;

-- The last position up to `most` before the first commit with an event of a later time: `latest` never falls, so that
-- it takes one look at an event for each halving.
CREATE FUNCTION maestro_position_at(moment bigint, most bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    least bigint := 0;
    middle bigint;
BEGIN
    WHILE least < most LOOP
        middle := (least + most + 1) / 2;
        IF (SELECT e.latest FROM maestro_events e WHERE e.position = middle) <= moment THEN
            least := middle;
        ELSE
            most := middle - 1;
        END IF;
    END LOOP;
    RETURN least;
END $$;

-- For people with psql: payloads as JSON. What JSON lacks is shown in the nearest form: bytes in base64, dates and
-- decimals as text, tuples and sets as arrays. These functions find each other whatever the search path of who looks.
CREATE FUNCTION maestro_unsigned(data bytea, start integer, size integer) RETURNS numeric LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    total numeric := 0;
BEGIN
    FOR i IN start .. start + size - 1 LOOP
        total := total * 256 + get_byte(data, i);
    END LOOP;
    RETURN total;
END $$;

CREATE FUNCTION maestro_signed(data bytea, start integer, size integer) RETURNS numeric LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT AS $$
    SELECT maestro_unsigned(data, start, size)
        - CASE WHEN size > 0 AND get_byte(data, start) > 127 THEN 256::numeric ^ size ELSE 0 END
$$;

CREATE FUNCTION maestro_double(bits bit varying) RETURNS double precision LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    exponent_bits integer := CASE length(bits) WHEN 64 THEN 11 ELSE 8 END;
    fraction_bits integer := length(bits) - exponent_bits - 1;
    bias integer := 2 ^ (exponent_bits - 1) - 1;
    sign integer := CASE WHEN get_bit(bits, 0) = 1 THEN -1 ELSE 1 END;
    exponent integer := 0;
    fraction double precision := 0;
BEGIN
    FOR i IN 1 .. exponent_bits LOOP
        exponent := exponent * 2 + get_bit(bits, i);
    END LOOP;
    FOR i IN 1 .. fraction_bits LOOP
        fraction := fraction + get_bit(bits, exponent_bits + i) * 2::double precision ^ -i;
    END LOOP;
    IF exponent = bias * 2 + 1 THEN
        RETURN CASE WHEN fraction > 0 THEN 'NaN' WHEN sign < 0 THEN '-Infinity' ELSE 'Infinity' END;
    ELSIF exponent = 0 THEN
        RETURN sign * fraction * 2::double precision ^ (1 - bias);
    END IF;
    RETURN sign * (1 + fraction) * 2::double precision ^ (exponent - bias);
END $$;

-- The value at a place, and the place behind it.
CREATE FUNCTION maestro_unpack(data bytea, INOUT at integer, OUT value jsonb) LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    code integer := get_byte(data, at);
    size integer;
    width integer;
    item record;
    name record;
    number double precision;
    items jsonb[] := '{}';
    names text[] := '{}';
BEGIN
    at := at + 1;
    CASE
        WHEN code < 128 THEN value := to_jsonb(code);
        WHEN code >= 224 THEN value := to_jsonb(code - 256);
        WHEN code = 192 THEN value := 'null';
        WHEN code IN (194, 195) THEN value := to_jsonb(code = 195);
        WHEN code IN (204, 205, 206, 207) THEN
            width := 1 << (code - 204);
            value := to_jsonb(maestro_unsigned(data, at, width));
            at := at + width;
        WHEN code IN (208, 209, 210, 211) THEN
            width := 1 << (code - 208);
            value := to_jsonb(maestro_signed(data, at, width));
            at := at + width;
        WHEN code IN (202, 203) THEN
            width := 4 << (code - 202);
            number := maestro_double(('x' || encode(substr(data, at + 1, width), 'hex'))::bit varying);
            value := CASE WHEN number IN ('NaN', 'Infinity', '-Infinity') THEN to_jsonb(number::text) ELSE to_jsonb(number) END;
            at := at + width;
        WHEN code BETWEEN 160 AND 191 OR code IN (217, 218, 219) THEN
            width := CASE WHEN code > 191 THEN 1 << (code - 217) ELSE 0 END;
            size := CASE WHEN code > 191 THEN maestro_unsigned(data, at, width) ELSE code - 160 END;
            value := to_jsonb(maestro_text(substr(data, at + width + 1, size)));
            at := at + width + size;
        WHEN code IN (196, 197, 198) THEN
            width := 1 << (code - 196);
            size := maestro_unsigned(data, at, width);
            value := to_jsonb(encode(substr(data, at + width + 1, size), 'base64'));
            at := at + width + size;
        WHEN code BETWEEN 144 AND 159 OR code IN (220, 221) THEN
            width := CASE WHEN code > 159 THEN 2 << (code - 220) ELSE 0 END;
            size := CASE WHEN code > 159 THEN maestro_unsigned(data, at, width) ELSE code - 144 END;
            at := at + width;
            FOR i IN 1 .. size LOOP
                item := maestro_unpack(data, at);
                at := item.at;
                items := array_append(items, item.value);
            END LOOP;
            value := to_jsonb(items);
        WHEN code BETWEEN 128 AND 143 OR code IN (222, 223) THEN
            width := CASE WHEN code > 143 THEN 2 << (code - 222) ELSE 0 END;
            size := CASE WHEN code > 143 THEN maestro_unsigned(data, at, width) ELSE code - 128 END;
            at := at + width;
            FOR i IN 1 .. size LOOP
                name := maestro_unpack(data, at);
                item := maestro_unpack(data, name.at);
                at := item.at;
                names := array_append(names, name.value #>> '{}');
                items := array_append(items, item.value);
            END LOOP;
            SELECT coalesce(jsonb_object_agg(n.name, n.item), '{}') INTO value FROM unnest(names, items) n(name, item);
        WHEN code BETWEEN 212 AND 216 OR code IN (199, 200, 201) THEN
            width := CASE WHEN code < 212 THEN 1 << (code - 199) ELSE 0 END;
            size := CASE WHEN code < 212 THEN maestro_unsigned(data, at, width) ELSE 1 << (code - 212) END;
            value := maestro_extension(get_byte(data, at + width), substr(data, at + width + 2, size));
            at := at + width + 1 + size;
        ELSE RAISE EXCEPTION 'not msgpack: byte % at %', code, at - 1;
    END CASE;
END $$;

CREATE FUNCTION maestro_text(data bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN convert_from(data, 'UTF8');
EXCEPTION WHEN OTHERS THEN -- NUL, which text has not
    RETURN encode(data, 'escape');
END $$;

CREATE FUNCTION maestro_extension(code integer, data bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    parts jsonb;
    clock text;
    offset_seconds integer;
BEGIN
    IF code = 8 THEN RETURN to_jsonb(convert_from(data, 'UTF8')); END IF;
    IF code = 9 THEN RETURN to_jsonb(encode(data, 'hex')::uuid); END IF;
    IF code = 10 THEN RETURN to_jsonb(maestro_signed(data, 0, length(data))); END IF;
    parts := (maestro_unpack(data, 0)).value;
    IF code IN (1, 2, 3) THEN RETURN parts; END IF;
    IF code = 7 THEN
        RETURN to_jsonb(format('%s days, %s seconds, %s microseconds', parts ->> 0, parts ->> 1, parts ->> 2));
    END IF;
    IF code = 4 OR code = 5 THEN
        clock := lpad(parts ->> 0, 4, '0') || '-' || lpad(parts ->> 1, 2, '0') || '-' || lpad(parts ->> 2, 2, '0');
        IF code = 5 THEN RETURN to_jsonb(clock); END IF;
        clock := clock || 'T';
        parts := parts #- '{0}' #- '{0}' #- '{0}';
    END IF;
    clock := coalesce(clock, '') || lpad(parts ->> 0, 2, '0') || ':' || lpad(parts ->> 1, 2, '0') || ':'
        || lpad(parts ->> 2, 2, '0') || '.' || lpad(parts ->> 3, 6, '0');
    offset_seconds := (parts #>> '{5,0}')::integer * 86400 + (parts #>> '{5,1}')::integer;
    RETURN to_jsonb(clock || CASE jsonb_typeof(parts -> 5)
        WHEN 'null' THEN ''
        WHEN 'string' THEN '[' || (parts ->> 5) || ']'
        ELSE CASE WHEN offset_seconds < 0 THEN '-' ELSE '+' END
            || to_char(make_interval(secs => abs(offset_seconds)), 'HH24:MI')
    END);
END $$;

CREATE VIEW maestro_events_json AS
SELECT e.position, maestro_text(coalesce(e.whole, e.aggregate_id)) AS aggregate_id, e.sequence,
    e.content ->> 0 AS type, e.content -> 1 AS body, e.content -> 2 AS metadata,
    to_timestamp(e.timestamp / 65536000.0) AS time, e.commit
FROM (
    SELECT e.*, (maestro_unpack(payload, 0)).value AS content FROM maestro_events e
) e;
