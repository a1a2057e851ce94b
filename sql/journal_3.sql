-- Version 3: numbers that are kept as entries come, change and go, so that `conflicts stats` of a million entries reads
-- some hundreds of rows. An entry's status is none of what is counted by: it changes once for every entry.
CREATE TABLE entry_count (
    hour          INTEGER NOT NULL,   -- of detected_at, since 1970
    relation      INTEGER NOT NULL REFERENCES relation (id),
    conflict_type TEXT    NOT NULL,
    source        TEXT    NOT NULL,
    target        TEXT    NOT NULL,
    resolution    TEXT    NOT NULL,
    rule          TEXT    NOT NULL,
    number        INTEGER NOT NULL,
    PRIMARY KEY (relation, conflict_type, resolution, rule, hour, source, target)   -- as they are grouped
) STRICT, WITHOUT ROWID;

INSERT INTO entry_count
SELECT detected_at / 3600000000, relation, conflict_type, source, target, resolution, rule, count(*)
FROM entry INDEXED BY entry_listing GROUP BY 1, 2, 3, 4, 5, 6, 7;

CREATE TRIGGER entry_counted AFTER INSERT ON entry BEGIN
    INSERT INTO entry_count
    VALUES (NEW.detected_at / 3600000000, NEW.relation, NEW.conflict_type, NEW.source, NEW.target, NEW.resolution,
            NEW.rule, 1)
    ON CONFLICT (relation, conflict_type, resolution, rule, hour, source, target) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER entry_uncounted AFTER DELETE ON entry BEGIN
    UPDATE entry_count SET number = number - 1
    WHERE (relation, conflict_type, resolution, rule, hour, source, target) = (OLD.relation, OLD.conflict_type,
        OLD.resolution, OLD.rule, OLD.detected_at / 3600000000, OLD.source, OLD.target);
    DELETE FROM entry_count
    WHERE (relation, conflict_type, resolution, rule, hour, source, target) = (OLD.relation, OLD.conflict_type,
        OLD.resolution, OLD.rule, OLD.detected_at / 3600000000, OLD.source, OLD.target) AND number = 0;
END;

-- A pending entry may be replaced: its batch was decided again, and differently.
CREATE TRIGGER entry_recounted AFTER UPDATE OF detected_at, conflict_type, resolution, rule ON entry BEGIN
    UPDATE entry_count SET number = number - 1
    WHERE (relation, conflict_type, resolution, rule, hour, source, target) = (OLD.relation, OLD.conflict_type,
        OLD.resolution, OLD.rule, OLD.detected_at / 3600000000, OLD.source, OLD.target);
    DELETE FROM entry_count
    WHERE (relation, conflict_type, resolution, rule, hour, source, target) = (OLD.relation, OLD.conflict_type,
        OLD.resolution, OLD.rule, OLD.detected_at / 3600000000, OLD.source, OLD.target) AND number = 0;
    INSERT INTO entry_count
    VALUES (NEW.detected_at / 3600000000, NEW.relation, NEW.conflict_type, NEW.source, NEW.target, NEW.resolution,
            NEW.rule, 1)
    ON CONFLICT (relation, conflict_type, resolution, rule, hour, source, target) DO UPDATE SET number = number + 1;
END;
