# Runs the migrations: docker run --rm --read-only -e DATABASE_URL IMAGE [db.status …]
FROM python:3.13-slim
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml README.md tasks.py invoke.yaml ./
COPY db ./db
RUN pip install -e . && python -m compileall -q db tasks.py
COPY migrations ./migrations
USER 65532:65532
ENTRYPOINT ["invoke"]
CMD ["db.migrate-run"]
