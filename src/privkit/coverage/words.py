"""The words behind ``names.suggest``: one table, in lower case, without accents, split as names are split."""

from __future__ import annotations

from collections.abc import Mapping

_NAME, _EMAIL, _PHONE = "user.name", "user.contact.email", "user.contact.phone_number"
_STREET, _POSTCODE = "user.contact.address.street", "user.contact.address.postal_code"
_CITY, _BORN = "user.contact.address.city", "user.demographic.date_of_birth"
_PLACE, _COARSE = "user.location.precise", "user.location.imprecise"
_ID, _NATIONAL = "user.government_id", "user.government_id.national_identification_number"
_IP, _DEVICE, _COOKIE = "user.device.ip_address", "user.device.device_id", "user.device.cookie_id"
_BANK, _CARD, _PAY = "user.financial.bank_account", "user.financial.credit_card", "user.financial"
_HEALTH, _BIOMETRIC, _SECRET = "user.health_and_medical", "user.biometric", "user.authorization.credentials"
_GENDER, _ORIGIN = "user.demographic.gender", "user.demographic.race_ethnicity"
_BELIEF, _UNIQUE, _CONTENT = "user.demographic.religious_belief", "user.unique_id", "user.content"

# (category, words that are enough alone with the confidence, words that need a person's company with it)
_ROWS: tuple[tuple[str, float, str, float, str], ...] = (
    (_NAME, 0.9, "first name; last name; full name; given name; family name; middle name; maiden name; surname; "
                 "forename; fname; lname; fl nm; f name; l name; firstname; lastname; fullname; nickname; patronymic",
     0.7, "name; nm; display name; displayname; username; user name; initials"),
    (_NAME, 0.9, "vorname; nachname; familienname; geburtsname; prenom; nom de famille; nombre completo; apellido; "
                 "apellidos; cognome; sobrenome; imie; nazwisko; voornaam; achternaam; fornavn; etternavn; efternamn",
     0.7, "nom; nombre; nome; naam; navn; namn"),
    (_EMAIL, 0.95, "email; e mail; mail address; email address; email id; correo electronico; courriel; "
                   "emailadresse; mailadresse",
     0.7, "mail; correo"),
    (_PHONE, 0.9, "phone; telephone; phone number; mobile number; cell phone; msisdn; telefon; telefono; telefone; "
                  "telefonnummer; handynummer; telnr; rufnummer; whatsapp; phone no; contact number",
     0.7, "mobile; tel; handy; movil; celular; fax"),
    (_STREET, 0.9, "street; street address; home address; postal address; billing address; mailing address; "
                   "shipping address; delivery address; address line; house number; strasse; hausnummer; anschrift; "
                   "rue; calle; direccion postal; adres",
     0.7, "address; addr; adresse; direccion; indirizzo; endereco"),
    (_POSTCODE, 0.8, "zip; zip code; zipcode; postcode; postal code; plz; postleitzahl; code postal; "
                     "codigo postal; cep", 0.6, "cap"),
    (_CITY, 0.0, "", 0.6, "city; town; ort; wohnort; ville; ciudad; citta; cidade"),
    (_BORN, 0.95, "dob; date of birth; birth date; birthdate; birthday; bday; born; born on; yob; birth year; "
                  "geburtsdatum; geburtstag; date naissance; date de naissance; fecha nacimiento; "
                  "fecha de nacimiento; nacimiento; data nascita; data nascimento; place of birth",
     0.6, "age; alter; edad"),
    (_PLACE, 0.9, "lat; lng; lon; latitude; longitude; lat e; lng e; lon e; latlng; latlon; lat long; gps; geohash; "
                  "geopoint; geolocation; coordinates; coords; coord; lnglat; plus code; what 3 words; "
                  "h 3 cell; pickup location; current location; last location; home location",
     0.7, "location; geom; geo; point; place; standort; ubicacion"),
    (_COARSE, 0.0, "", 0.5, "region; district; neighbourhood; neighborhood"),
    (_NATIONAL, 0.95, "ssn; social security; social security number; national id; national insurance; nino; nhs "
                      "number; nin; tax id; taxpayer id; aadhaar; aadhar; curp; cpf; dni; nif; nie; pesel; bsn; "
                      "personnummer; fodselsnummer; codice fiscale; steuer id; steuernummer; sozialversicherungsnummer",
     0.6, "sin; pan; ine"),
    (_ID, 0.9, "passport; passport number; passport no; passport id; driver license; drivers license; driving "
               "licence; licence number; license number; id card; identity card; ausweis; reisepass; pasaporte",
     0.0, ""),
    (_IP, 0.85, "ip; ip address; ip addr; ipaddress; ipv 4; ipv 6; remote addr; client ip; x forwarded for", 0.0, ""),
    (_DEVICE, 0.85, "device id; mac address; imei; imsi; idfa; idfv; gaid; advertising id; aaid; udid; android id; "
                    "fingerprint; user agent; useragent; push token; fcm token", 0.0, ""),
    (_COOKIE, 0.7, "cookie; cookie id; session id; session token; visitor id; tracking id", 0.0, ""),
    (_BANK, 0.9, "iban; bic; swift; bank account; account number; sort code; routing number; kontonummer; bankkonto; "
                 "clabe", 0.0, ""),
    (_CARD, 0.9, "credit card; card number; cardnumber; cvv; cvc; pan number; card last", 0.0, ""),
    (_PAY, 0.0, "", 0.6, "salary; income; wage; gehalt"),
    (_HEALTH, 0.85, "diagnosis; medication; blood type; blood group; allergy; allergies; disability; patient id; "
                    "medical record; mrn; symptoms; icd; prescription; krankheit; hiv",
     0.6, "health; weight; height; condition"),
    (_BIOMETRIC, 0.85, "biometric; face embedding; faceprint; iris scan; voiceprint; retina", 0.6, "face; voice"),
    (_SECRET, 0.85, "password; passwd; pwd; password hash; passphrase; security answer; otp secret; totp secret; "
                    "recovery code; passwort; contrasena; mot de passe", 0.6, "pin; pw"),
    (_GENDER, 0.85, "gender; geschlecht; genero; pronouns; sexual orientation", 0.7, "sex; sexe; sexo"),
    (_ORIGIN, 0.85, "ethnicity; ethnic group; nationality; staatsangehorigkeit; nacionalidad", 0.7, "race"),
    (_BELIEF, 0.85, "religion; religious belief; konfession; political party; union member", 0.0, ""),
    (_UNIQUE, 0.6, "user uuid; external user id; member number; employee number; kundennummer", 0.6, "handle; login"),
    (_CONTENT, 0.6, "avatar; profile picture; profile photo; selfie; bio; biography",
     0.6, "photo; picture; notes; note; comment; comments; message; body; free text; remarks; bemerkung"),
)  # fmt: skip


def _table() -> Mapping[tuple[str, ...], tuple[str, float, bool]]:
    table: dict[tuple[str, ...], tuple[str, float, bool]] = {}
    for category, alone, words, together, weak in _ROWS:
        for text, confidence, company in ((words, alone, False), (weak, together, True)):
            for phrase in filter(None, (part.strip() for part in text.split(";"))):
                table[tuple(phrase.split())] = (category, confidence, company)
    return table


WORDS = _table()
"""From words to (category, confidence, whether they need a person's company)."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PERSONS_IN_ER = (
    "buy consum custom driv employ follow learn manag own play publish rid send speak subscrib support "
    "teach us view vot walk work travell"
)
_PERSONS = (
    "account actor applicant author candidate child citizen client contact donor employee fan friend guardian guest "
    "human individual kid lead member minor parent passenger patient payee people person profile recipient sailor "
    "staff student subject tenant tutor visitor nutzer kunde kundin mitarbeiter benutzer cliente usuario utilisateur "
    "persona empleado"
)

PERSONS = _set(_PERSONS) | {f"{stem}er" for stem in _set(_PERSONS_IN_ER)}
"""Nouns, in the singular, of those whom a table can be about; the many that end in -er stand as their stems."""

PREFIXES = _set("is has had was can may should allow allows allowed require requires required enable")
"""First words of a flag."""

DESCRIBING = _set(
    "at on until count counts total unit units ms sec secs seconds minutes hours format status state verified "
    "confirmed valid validated enabled disabled required allowed optional flag type kind method mode version length "
    "size limit file template subject id ids index order rank level rate ratio score step min max avg sum days "
    "expiry expires policy provider source setting settings preference preferences opted consent schema field column"
)
"""Last words that make a name one of something *about* a value."""

NOT_A_PERSONS = _set(
    "academic app application archive asset bank branch bucket brand category channel class column company contract "
    "country course currency department domain event file filename firm folder function game group host image "
    "industry item job key language library list lookup machine memory menu merchant method model module node "
    "organisation organization package page path plan planet plugin process product project provider queue recipe "
    "repository resource role room route schema school server service shop site software store subject table tag "
    "team template terminal test theme tool topic unit unused url vendor venue warehouse year"
)
"""Words beside a match that make it somebody else's: ``company_name``, ``memory_address``, ``zip_file``."""
