# Run as a service of a machine whose first process is systemd: what the administrator of a host does
# with the packages. Each step is said; the first that fails ends it.
exec >/dev/ttyS1 2>&1
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
unit=twtrace.service
socket=/run/twtrace/twtrace.sock

end() {
    echo "twtrace-guest: exit $1"
    sync
    systemctl poweroff --force --force
    exit
}

fail() {
    echo "FAILED: $*"
    systemctl --no-pager --full status $unit
    journalctl --no-pager --unit $unit --lines 40
    end 1
}

step() {
    what=$*
    echo "step: $what"
}

# Runs something that has to go well.
must() {
    "$@" >/tmp/said 2>&1 || {
        cat /tmp/said
        fail "$what: $*"
    }
}

is() {
    now=$(systemctl is-"$1" $unit 2>/dev/null)
    [ "$now" = "$2" ] || fail "$what: is-$1 says '$now', not $2"
}

there() { [ -e "$1" ] || fail "$what: $1 is not there"; }
gone() { [ ! -e "$1" ] || fail "$what: $1 is there"; }
main_process() { systemctl show --value --property MainPID $unit; }

# Opens and closes so many connections of this host to itself, closed by the client first.
connections() {
    must perl -MIO::Socket::INET -e '
        my $server = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1:9000", ReuseAddr => 1) or die $!;
        for (1 .. shift) {
            my $client = IO::Socket::INET->new("127.0.0.1:9000") or die $!;
            my $taken = $server->accept or die $!;
            shutdown($client, 1);
            sysread($taken, my $byte, 1);
            close $taken;
            sysread($client, $byte, 1);
            close $client;
        }' "$1"
}

# How many the daemon has counted of them, in the minutes it remembers.
remembered() {
    twtrace explain 127.0.0.1:9000 --daemon always --for 1s -o json 2>/tmp/said | perl -0ne '
        my ($minutes) = /"minutes": \[(.*?)\n\s*\]/s;
        my $sum = 0;
        $sum += $1 while defined $minutes && $minutes =~ /"entered": (\d+)/g;
        print $sum'
}

remembers() {
    count=$(remembered)
    [ "$count" = "$1" ] || {
        cat /tmp/said
        fail "$what: it remembers '$count' connections, not $1"
    }
}

echo "twtrace-guest: start"

step "deb: installed, the unit is there, disabled and not running"
must dpkg --install /packages/old.deb
is enabled disabled
is active inactive
must getent passwd twtrace
must twtrace --version
there /usr/share/man/man1/twtrace.1.gz

step "deb: started, it counts as the unit's user"
must systemctl enable --now $unit
is active active
[ "$(stat -c %U /proc/"$(main_process)")" = twtrace ] || fail "$what: it is somebody else's"
connections 20
remembers 20

step "deb: upgraded, it goes on as the new version with settings and history"
echo "max_peers = 77" >/etc/twtrace/twtrace.toml
before=$(main_process)
must dpkg --install /packages/new.deb
is active active
is enabled enabled
[ "$(main_process)" != "$before" ] || fail "$what: the old program runs"
[ "$(cat /etc/twtrace/twtrace.toml)" = "max_peers = 77" ] || fail "$what: settings are lost"
connections 10
remembers 30

step "deb: removed, it stops, and settings and history stay"
must dpkg --remove twtrace
is active inactive
gone /usr/bin/twtrace
gone $socket
there /etc/twtrace/twtrace.toml
there /var/lib/twtrace/state

step "deb: purged, nothing stays but the user"
must dpkg --purge twtrace
gone /etc/twtrace
gone /var/lib/twtrace
gone /etc/systemd/system/multi-user.target.wants/$unit
gone /usr/lib/systemd/system/$unit
gone /usr/share/doc/twtrace
must getent passwd twtrace
must systemctl daemon-reload
systemctl cat $unit >/dev/null 2>&1 && fail "$what: systemd knows the unit"

# Not the package manager of this distribution, so what others need of each other is not asked.
step "rpm: installed, the unit is there, disabled and not running"
must rpm --nodeps --install /packages/old.rpm
is enabled disabled
is active inactive

step "rpm: started, it counts"
must systemctl enable --now $unit
is active active
connections 20
remembers 20

step "rpm: upgraded, it goes on as the new version with settings and history"
echo "max_peers = 77" >/etc/twtrace/twtrace.toml
before=$(main_process)
must rpm --nodeps --upgrade /packages/new.rpm
is active active
is enabled enabled
[ "$(main_process)" != "$before" ] || fail "$what: the old program runs"
[ "$(cat /etc/twtrace/twtrace.toml)" = "max_peers = 77" ] || fail "$what: settings are lost"
connections 10
remembers 30

step "rpm: erased, it stops, changed settings are kept aside and the history stays"
must rpm --erase twtrace
is active inactive
gone /usr/bin/twtrace
gone /etc/systemd/system/multi-user.target.wants/$unit
there /etc/twtrace/twtrace.toml.rpmsave
there /var/lib/twtrace/state
end 0
