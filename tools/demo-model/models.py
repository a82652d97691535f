"""The demo models by name: how they are built and where their files are."""

import argparse

from model import DemoModel, ModelConfig
from model_mla import MlaConfig, MlaModel
from tokenizer import ROOT, WORK

MODELS = {"demo": (DemoModel, ModelConfig), "demo-mla": (MlaModel, MlaConfig)}


def parse_model():
    """The name that is given on the command line, else that of the first model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, default="demo")
    return parser.parse_args().model


def new_model(name):
    model, config = MODELS[name]
    return model(config())


def checkpoint_path(name):
    return WORK / f"{name}.pt"


def model_directory(name):
    return ROOT / "models" / name


def fixtures_directory(name):
    return ROOT / "test" / "fixtures" / f"{name}-model"
