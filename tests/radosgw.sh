#!/usr/bin/env bash
# A real S3 server on loopback: Ceph's RADOS Gateway over one monitor and one in-memory store (data is lost at stop).
#   radosgw.sh install           Debian packages radosgw, ceph-mon, ceph-osd (once, as root)
#   radosgw.sh start DIR [PORT]  starts it (default port 9104; PORT+1 is the monitor's), prints the endpoint
#   radosgw.sh stop DIR          ends the three processes that start made, by their ids
# DIR is emptied. The keys are testing / testing12.
set -eu

case ${1:-} in
install)
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd
  exit
  ;;
stop)
  for file in "$2"/{rgw,osd,mon}.started; do
    [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
  exit
  ;;
start) ;;
*)
  sed -n 2,6p "$0"
  exit 2
  ;;
esac

D=$(mkdir -p "$2" && cd "$2" && pwd)
PORT=${3:-9104}
MONITOR=$((PORT + 1))
CLUSTER=$(cat /proc/sys/kernel/random/uuid)
STORE=$(cat /proc/sys/kernel/random/uuid)
rm -rf "${D:?}"/*
mkdir -p "$D"/{mon,osd0,rgw,log,asok}

cat >"$D/ceph.conf" <<CONF
[global]
fsid = $CLUSTER
mon host = [v2:127.0.0.1:$MONITOR]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
run dir = $D/asok
log file = $D/log/\$name.log
mon data avail warn = 1
admin socket = $D/asok/\$name.asok
pid file = $D/\$name.pid
osd class load list = *
osd class default list = *
[mon.a]
mon data = $D/mon
mon initial members = a
mgr initial modules =
[osd]
osd data = $D/osd0
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$PORT
rgw data = $D/rgw
rgw enable usage log = false
rgw relaxed s3 bucket names = true
CONF

started() { # NAME COMMAND...: in its own session, so that the terminal's Ctrl-C does not reach it
  local name=$1
  shift
  setsid "$@" -f >"$D/log/$name.out" 2>&1 </dev/null &
  echo $! >"$D/$name.started"
}

export CEPH_CONF=$D/ceph.conf CEPH_ARGS="--conf $D/ceph.conf"
monmaptool --create --fsid "$CLUSTER" --addv a "[v2:127.0.0.1:$MONITOR]" "$D/monmap" >/dev/null
ceph-authtool --create-keyring "$D/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
ceph-mon --mkfs -i a --monmap "$D/monmap" --keyring "$D/keyring"
started mon ceph-mon -i a

ceph-osd -i 0 --mkfs --osd-uuid "$STORE" >/dev/null 2>&1 # these wait for the monitor
ceph --connect-timeout 60 osd new "$STORE" 0 >/dev/null
started osd ceph-osd -i 0
ceph osd crush add osd.0 1.0 root=default host=h >/dev/null 2>&1
started rgw radosgw -n client.rgw

for _ in $(seq 240); do
  (: </dev/tcp/127.0.0.1/"$PORT") 2>/dev/null && break
  kill -0 "$(cat "$D/rgw.started")" || { tail -n 5 "$D"/log/* >&2; exit 1; }
  sleep 0.25
done
radosgw-admin user create --uid=t --display-name=t --access-key=testing --secret=testing12 >/dev/null
echo "http://127.0.0.1:$PORT"
