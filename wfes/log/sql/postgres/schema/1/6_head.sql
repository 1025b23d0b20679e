-- One row. position: no event at or before it will be appended any more, whatever was deleted; it is behind the newest
-- event as long as nothing was. changes: counts the commits that changed rows and appended no event.
CREATE TABLE wfes_head (
    position BIGINT NOT NULL,
    changes BIGINT NOT NULL
)
