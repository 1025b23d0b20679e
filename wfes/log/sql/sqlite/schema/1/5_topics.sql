-- Every topic that was ever appended: an older release sees at once that it cannot read this log.
CREATE TABLE wfes_topics (
    topic TEXT PRIMARY KEY NOT NULL
) WITHOUT ROWID
