"""Names the kind of surface of a picture and scores how far it is from normal ones: training, evaluation, reports."""
