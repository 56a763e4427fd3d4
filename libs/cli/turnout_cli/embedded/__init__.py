"""PostgreSQL and Apache Kafka from Python wheels and Maven jars: no Docker, no installed server."""
