"""The verbs: collect, train, evaluate, import, inspect, quickstart; one function and one config each."""
