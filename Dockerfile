FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md prefect.yaml ./
COPY configs configs
COPY flows flows
COPY gptcore gptcore
COPY tasks tasks
RUN pip install --no-cache-dir -c constraints.txt -e .
