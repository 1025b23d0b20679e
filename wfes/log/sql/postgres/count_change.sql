UPDATE wfes_head SET changes = changes + 1
