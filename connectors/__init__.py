"""Thin adapters to the outside: brokers, files, logs; import the leaf, such as `connectors.kafka_events`."""
