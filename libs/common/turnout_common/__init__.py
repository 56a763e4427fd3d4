"""What the services share. Importing it pins the time zone data to the one that the lock file names."""

import zoneinfo

# A machine's own zone files may be years old, and a salon's local day must be the same on every machine.
zoneinfo.reset_tzpath(to=())
