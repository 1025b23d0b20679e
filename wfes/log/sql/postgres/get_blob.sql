SELECT content FROM wfes_blobs WHERE sha256 = %s
