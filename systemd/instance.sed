# Makes the template units of quantum-retraining-worker@INSTANCE from the plain ones; `make install-files` applies it.
# The names are those of retrain_worker/domain/host_names.py; a test compares them.
s|^Description=.*|& (%i)|
s|^StateDirectory=.*|&-%i|
s|^RuntimeDirectory=.*|&-%i|
s|/run/quantum-retraining-worker|&-%i|
s|/etc/quantum/retraining-worker\.|/etc/quantum/retraining-worker-%i.|
s|quantum-ai-engine-restart\.path|quantum-ai-engine-restart@%i.path|
s|-/opt/quantum/ai_engine/models|&-%i|
/^Exec/s|retrain-worker [a-z-]*|& --instance %i|
