"""The kill harness: it kills what is at work, and notices what a kill lost."""

import json
import subprocess
import sys

from tools import chaos


def test_a_kill_of_the_sample_is_logged_and_loses_nothing(tmp_path):
    kill = chaos.kill_once("sample", 1, tmp_path)
    assert kill["at_work"] and kill["lost"] == "" and kill["seconds"] > 0
    wanted = json.loads((tmp_path / "sample.json").read_text())
    (tmp_path / "sample.json").write_text(json.dumps(wanted | {"result": "another"}))
    assert chaos.kill_once("sample", 1, tmp_path)["lost"].startswith("other content")


def test_all_children_die_and_what_has_ended_was_not_at_work(tmp_path):
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('x' * 10**6, flush=True); time.sleep(60)"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", code], **options)
    assert chaos.kill_after(process, 1.0) and process.returncode == -9
    group = subprocess.run(["ps", "-o", "stat=", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert all(state.startswith("Z") for state in group)
    assert not chaos.kill_after(subprocess.Popen([sys.executable, "-c", "pass"], **options), 20.0)


def test_a_hundred_kills_in_all():
    assert sum(chaos.KILLS.values()) == 100 and set(chaos.KILLS) == set(chaos.SCENES)
