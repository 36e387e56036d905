# Process 1 of the cluster's namespaces: gives it private places for what Kubernetes keeps in fixed ones,
# then reaps orphans for ever. When it is killed, the kernel ends everything in the namespaces.
set -eu
state=$1

# /proc is still the caller's: this is our process id as the host sees it.
read -r pid rest < /proc/self/stat
mount -t proc proc /proc

for place in /run /var/log /var/lib/kubelet /var/lib/containerd /var/lib/cni /etc/cni /tmp/hostpath_pv; do
    private=$state/places$place
    if [ ! -d "$place" ]; then mkdir "$place"; echo "$place" >> "$state/made"; fi
    mkdir -p "$private"
    mount --bind "$private" "$place"
done
chmod 0777 /tmp/hostpath_pv
mount --bind "$state/conf/resolv.conf" /etc/resolv.conf
mkdir -p /etc/cni/net.d
cp "$state/conf/cni.conflist" /etc/cni/net.d/10-gatewright.conflist

# kubelet sets these for the whole machine unless they have its values already: let it read that they have.
while read -r key value; do
    pretended=$state/pretended-$(basename "$key")
    echo "$value" > "$pretended"
    mount --bind "$pretended" "/proc/sys/$key"
done <<'VALUES'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
VALUES

# Volumes with Bidirectional propagation work, and stay inside.
mount --make-rshared /
hostname @NODE@
ip link set lo up
echo "$pid" > "$state/holder.part"
mv "$state/holder.part" "$state/holder"

# The in-tree host-path provisioner makes 0750 folders of root, and fsGroup does not apply to them.
while :; do
    for volume in /tmp/hostpath_pv/*; do
        if [ -d "$volume" ]; then chmod 0777 "$volume"; fi
    done
    sleep 0.5 &
    wait
done
