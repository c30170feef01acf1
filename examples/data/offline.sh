#!/bin/sh
# Scenes, two training sets from them, and a report: offline, in a minute or two. Stop it and start it again at will.
set -e
here=$(dirname "$0")
relisten scenes out/data/scenes --num 60 --questions 0
relisten data build "$here/offline.yaml"
relisten data stats out/data/offline
