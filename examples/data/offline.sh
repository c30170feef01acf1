#!/bin/sh
# Makes scenes, two training sets from them, and a report, offline, in a minute or two. You can stop it and start it again.
set -e
here=$(dirname "$0")
relisten scenes out/data/scenes --num 60 --questions 0
relisten data build "$here/offline.yaml"
relisten data stats out/data/offline
