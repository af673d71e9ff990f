"""A stand-in for an interpreter with mace-torch: it reads the same command lines and writes the same files."""

from __future__ import annotations

#: As mace-torch 0.3.16: options as --name=value, results in results/NAME_run-SEED_train.txt, weights in MODEL_DIR.
STAND_IN = """#!{python}
import ast, json, os, pathlib, signal, sys
arguments = sys.argv[1:]
if arguments[0] == "-c":
    print("a notice of some package")
    print(json.dumps({{"mace-torch": "0.3.16", "e3nn": "0.4.4"}}))
    raise SystemExit
assert arguments[0] == "-m"
module, flags = arguments[1], arguments[2:]
given = dict(f.removeprefix("--").split("=", 1) for f in flags if "=" in f)
from ase.io import read, write
if module == "mace.cli.run_train":
    assert {{"--restart_latest", "--save_cpu"}} <= set(flags)
    frames = read(given["train_file"], ":")
    energies = ast.literal_eval(given["E0s"])
    assert all(isinstance(z, int) for z in energies)
    assert {{int(z) for f in frames for z in f.numbers}} == set(energies)
    assert all(f.arrays[given["forces_key"]].shape == (len(f), 3) for f in frames)
    assert all(len(f.info[given["stress_key"]].ravel()) == 9 for f in frames)
    tag = given["name"] + "_run-" + given["seed"]
    state, results = pathlib.Path("checkpoints/epoch"), pathlib.Path("results/" + tag + "_train.txt")
    state.parent.mkdir(exist_ok=True), results.parent.mkdir(exist_ok=True)
    done = int(state.read_text()) if state.exists() else 0
    with results.open("a") as out:
        def say(**values):
            out.write(json.dumps(values) + "\\n"), out.flush()
        def evaluate(epoch):
            e = -1 if epoch is None else epoch
            say(mode="eval", epoch=epoch, loss=1.0, mae_e_per_atom=0.1 / (e + 2), mae_f=0.2, mae_stress=0.003)
        evaluate(None)
        for epoch in range(done, int(given["max_num_epochs"])):
            for step in range(2):
                say(mode="opt", epoch=epoch, loss=1.0 / (epoch + 1), time=0.5)
                if os.environ.get("KILLED") and epoch == 1 and done == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            evaluate(epoch)
            state.write_text(str(epoch + 1))
    weights = pathlib.Path(given["model_dir"]) / (given["name"] + ".model")
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"a network")
elif module == "mace.cli.eval_configs":
    assert pathlib.Path(given["model"]).is_file() and "--compute_stress" in flags
    frames = read(given["configs"], ":")
    for f in frames:
        f.info["MACE_energy"] = f.info["REF_energy"] + 0.5 * len(f)
        f.arrays["MACE_forces"] = f.arrays["REF_forces"] - 0.25
        f.info["MACE_stress"] = f.info["REF_stress"] + 0.125
    write(given["output"], frames, format="extxyz")
else:
    raise SystemExit("No module named " + module)
"""
