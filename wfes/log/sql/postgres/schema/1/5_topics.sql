-- Every topic that was ever appended: an older release sees at once that it cannot read this log.
CREATE TABLE wfes_topics (
    topic TEXT COLLATE "C" PRIMARY KEY
)
