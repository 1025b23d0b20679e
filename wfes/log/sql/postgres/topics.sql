SELECT topic FROM wfes_topics
