-- Read once, when the container makes its data folder.
CREATE DATABASE mlflow OWNER soldiom;
