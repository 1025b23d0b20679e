-- The table of projections knows more of each; all of them are made anew from the log, under the columns of now.
DROP TABLE IF EXISTS wfes_projections
