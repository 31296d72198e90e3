"""The HTTP server of llama.cpp itself, on a model of random numbers. It prints `listening PORT` and serves until killed."""

import argparse
import os
import tempfile
import threading

import xllamacpp

import llm_model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="miku-tiny")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--embeddings", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tiny.gguf")
        llm_model.write(path)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = path
        parameters.model_alias = {options.name}
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        parameters.n_ctx = 1024 * options.parallel
        parameters.n_parallel = options.parallel
        parameters.cpuparams.n_threads = options.threads
        parameters.warmup = False
        parameters.embedding = options.embeddings
        server = xllamacpp.Server(parameters)
    print("listening", server.listening_address.rsplit(":", 1)[1], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
