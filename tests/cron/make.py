"""Writes tests/cron/year.json: the runs of 2027 by cronsim, which follows Debian's cron through clock changes.

    python3 -m venv /tmp/cron && /tmp/cron/bin/pip install cronsim==2.7 && /tmp/cron/bin/python tests/cron/make.py
"""
import datetime, hashlib, json, pathlib, zoneinfo
from cronsim import CronSim

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Adelaide", "Asia/Kolkata", "America/Santiago", "Africa/Casablanca"]
EXPRESSIONS = ["*/10 * * * *", "30 * * * *", "30 2 * * *", "0 3 * * *", "15 1,2,3 * * *", "0 0 * * *", "30 1 * * 0", "0 4 1,15 * 5",
               "45 23 * * 1-5", "0 12 29 2 *", "5 0 31 * *", "0 2 */3 * 1"]
START = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)
END = START.replace(year=2028)
DAY = 86400

cases = []
for name in ZONES:
    zone = zoneinfo.ZoneInfo(name)
    offsets = [(START + datetime.timedelta(hours=h)).astimezone(zone).utcoffset() for h in range(365 * 24)]
    changes = [int(START.timestamp()) + h * 3600 for h in range(1, len(offsets)) if offsets[h] != offsets[h - 1]]
    for expression in EXPRESSIONS:
        runs = []
        for run in CronSim(expression, (START - datetime.timedelta(seconds=1)).astimezone(zone)):
            if run >= END:
                break
            runs.append(int(run.timestamp()))
        near = [t for t in runs if any(abs(t - c) < 3 * 3600 for c in changes)]
        digest = hashlib.sha256("".join(f"{t}\n" for t in runs).encode()).hexdigest()
        cases.append({"expression": expression, "zone": name, "runs": len(runs), "sha256": digest, "near_changes": near})
pathlib.Path(__file__).with_name("year.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
