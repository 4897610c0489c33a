# docker build -t agegender-ray:0.1.0 -f docker/ray.Dockerfile dist, after `make wheel`: for docker/ray-service.yaml.
FROM rayproject/ray:2.60.0-py311
COPY agegender-0.1.0-py3-none-any.whl /tmp/
RUN pip install --no-cache-dir '/tmp/agegender-0.1.0-py3-none-any.whl[scale]' && agegender fetch-detector
