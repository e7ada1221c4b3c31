-- MLflow's tables have a database of their own beside Emend's. Run once, when the volume is new.
CREATE DATABASE mlflow;
